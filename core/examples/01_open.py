# Open a scene by the names of its bands and read what lies in a box on the map.

import matplotlib.pyplot as plt

import geocore as geo

with geo.open(geo.sample() / "scene.tif", bands=["nir", "red", "green"]) as scene:
    patch = scene.read(bounds=(501000, 4994000, 506000, 4999000))  # left, bottom, right, top
print(patch.values.shape, patch.values.dtype, f"{patch.valid.mean():.1%} valid")
plt.imsave("scene.png", (patch.values.transpose(1, 2, 0) / 3000).clip(0, 1))  # infrared as red
