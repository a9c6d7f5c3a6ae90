# Map a scene with a torch model of your own: here a water index; any network of bands to logits of classes will do.

import matplotlib.pyplot as plt
import torch

import geocore as geo


def water(image):  # (batch, band, row, col), reflectance -> (batch, class, row, col), logits
    index = (image[:, 0] - image[:, 2]) / (image[:, 0] + image[:, 2] + 1e-6)
    return torch.stack([-index, index], dim=1) * 5


result = geo.predict(geo.sample() / "scene.tif", water, "water.tif", classes=["land", "water"], normalize=10_000)
print(result)
plt.imsave("water.png", result.labels, vmin=0, vmax=2, cmap="Blues")  # 255, no data, is darkest
