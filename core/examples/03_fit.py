# Train a network on a folder of images and masks, divided by blocks of ground, and keep it.

import torch

import geocore as geo

data = geo.SegmentationDataset.from_folder(geo.sample() / "chips", classes=["land", "water"])
train, val, test = data.split(train=0.6, val=0.2, by="block", block_m=1280, buffer_m=100)
network = torch.nn.Sequential(torch.nn.Conv2d(4, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 2, 1))
fitted = geo.fit(network, train, val, steps=60, batch_size=4, patch=64, lr=0.01, progress=False)
print(fitted, fitted.scores)
torch.save(fitted.model, "water.pt")
