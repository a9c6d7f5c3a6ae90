# Divide two scenes that overlap into blocks of ground, so that no place is trained on and scored on.

import geocore as geo

folder = geo.sample()
blocks = geo.split_blocks([folder / "scene.tif", folder / "east.tif"], block_m=1500, buffer_m=100, seed=1)
train, val, test = ([block for block in blocks if block.split == split] for split in ("train", "val", "test"))
print(len(train), len(val), len(test), train[0])
print(geo.find_leaks(train, val, test))  # none
print(geo.find_leaks([folder / "scene.tif"], [folder / "east.tif"]))  # as they are, they share ground
