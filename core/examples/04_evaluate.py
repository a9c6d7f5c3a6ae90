# Score a model on images with masks that it has not seen, and one map against another.

import torch

import geocore as geo

data = geo.SegmentationDataset.from_folder(geo.sample() / "chips", classes=["land", "water"])
train, val, test = data.split(train=0.6, val=0.2, by="block", block_m=1280, buffer_m=100)
network = torch.nn.Sequential(torch.nn.Conv2d(4, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 2, 1))
fitted = geo.fit(network, train, val, steps=60, batch_size=4, patch=64, lr=0.01, progress=False)
scores = geo.evaluate(fitted.model, test)
print(scores, scores["miou"], scores.interval("miou"))
map_of_scene = geo.predict(geo.sample() / "scene.tif", fitted.model)
print(geo.compare(map_of_scene.labels, geo.sample() / "truth.tif", classes=["land", "water"])["iou_water"])
