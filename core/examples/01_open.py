# Open a scene by the names of its bands and read a place on the map.

import matplotlib.pyplot as plt

import geocore as geo

with geo.open(geo.sample() / "scene.tif", bands=["nir", "red", "green"]) as scene:
    patch = scene.read(bounds=(501_000, 4_994_000, 506_000, 4_999_000))  # left, bottom, right, top, metres
print(scene, patch, sep="\n")
geo.write("place.tif", patch.values, like=patch, nodata=0)
plt.imsave("place.png", (patch.values.transpose(1, 2, 0) / 3000).clip(0, 1))  # infrared as red
