# Open a scene by the names of its bands and read a part of it.

import matplotlib.pyplot as plt

import geocore as geo

with geo.open(geo.sample() / "scene.tif", bands=["nir", "red", "green"]) as scene:
    patch = scene.read_layers(geo.Window(100, 100, 500, 500))["image"]
print(patch.values.shape, patch.values.dtype, f"{patch.valid.mean():.1%} valid")
plt.imsave("scene.png", (patch.values.transpose(1, 2, 0) / 3000).clip(0, 1))  # infrared as red
