"""Raster IO, tiling, metrics, training and whole-scene inference for Earth observation."""
