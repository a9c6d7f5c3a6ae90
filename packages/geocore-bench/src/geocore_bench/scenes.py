"""Rasters that the benchmarks read: seeded, shaped and stored like scenes of Sentinel-2.

Content is smooth fractal reflectance with sensor noise, so that a codec meets something like a scene and no constant.
A `cog_N` is a cloud-optimized GeoTIFF, deflate with predictor in blocks of 512; `lzw_strip_N` holds the same pixels in
strips, and `big_N` repeats a smaller scene over a larger one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BANDS = 6
BLOCK_PX = 512
REFLECTANCE = 10_000
"""Stored number of reflectance 1."""

_ROWS = 2048
_STEP = 32
_BLOCKS: dict[str, Any] = {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX}


def texture(size: int, seed: int) -> NDArray[np.uint16]:
    """Draw a scene.

    Args:
        size: rows and columns, at least 160.
        seed: of the content.

    Returns:
        Shape (BANDS, size, size), uint16, about 300 to 6000.
    """
    from scipy.ndimage import zoom

    rng = np.random.default_rng(seed)
    base = np.zeros((size, size), np.float32)
    for cells, gain in ((8, 1.0), (64, 0.5), (size // 20, 0.25)):
        coarse = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
        fine = zoom(coarse, size / (cells + 1), order=1)
        base[: fine.shape[0], : fine.shape[1]] += gain * fine[:size, :size]
    scene = np.empty((BANDS, size, size), np.uint16)
    for band in range(BANDS):
        noise = rng.integers(-24, 25, (size, size), dtype=np.int16)
        scene[band] = np.clip(1500 + 200 * band + (500 + 60 * band) * base + noise, 1, REFLECTANCE).astype(np.uint16)
    return scene


def make_cog(data: Path, size: int) -> Path:
    """Make `cog_<size>.tif`, where it is missing."""
    path = data / f"cog_{size}.tif"
    if not path.exists():
        plain = path.with_suffix(".plain.tif")
        _write(plain, texture(size, 1), _BLOCKS)
        _copy_as_cog(plain, path)
        plain.unlink()
    return path


def make_strips(data: Path, size: int) -> Path:
    """Make `lzw_strip_<size>.tif`, LZW with predictor in strips of a row or few, where it is missing."""
    path = data / f"lzw_strip_{size}.tif"
    if not path.exists():
        _write(path, texture(size, 1), {"compress": "lzw", "predictor": 2})
    return path


def make_big(data: Path, size: int, repeated: int) -> Path:
    """Make `big_<size>.tif` of the scene `cog_<repeated>` in both directions, where it is missing.

    Values are rounded down to multiples of `_STEP`, which keeps most of the noise off the disk: what is measured on it
    is memory.
    """
    import rasterio
    from rasterio.windows import Window

    path = data / f"big_{size}.tif"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    options = _BLOCKS | {"compress": "deflate", "predictor": 2}
    with (
        rasterio.open(make_cog(data, repeated)) as source,
        rasterio.open(part, "w", **_profile(BANDS, size, size, "uint16"), **options) as target,
    ):
        for first in range(0, size, repeated):
            rows = min(repeated, size - first)
            for row in range(0, rows, _ROWS):
                height = min(_ROWS, rows - row)
                strip = source.read(window=Window(0, row, repeated, height))
                strip -= strip % _STEP
                wide = np.concatenate([strip] * -(-size // repeated), axis=2)[:, :, :size]
                target.write(wide, window=Window(0, first + row, size, height))
    os.replace(part, path)
    return path


def make_sparse(data: Path, size: int, bands: int = 4) -> Path:
    """Make `sparse_<size>.tif`, a raster of which no block is stored, where it is missing."""
    import rasterio

    path = data / f"sparse_{size}.tif"
    if not path.exists():
        options = _BLOCKS | {"compress": "deflate", "sparse_ok": True}
        with rasterio.open(path, "w", **_profile(bands, size, size, "uint16"), **options):
            pass
    return path


def _profile(count: int, height: int, width: int, dtype: str) -> dict[str, Any]:
    from rasterio.transform import from_origin

    return {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": dtype,
        "crs": "EPSG:32634",
        "transform": from_origin(500_000, 4_500_000, 10, 10),
        "interleave": "pixel",
        "bigtiff": "IF_SAFER",
        "num_threads": 2,
    }


def _write(path: Path, values: NDArray[Any], creation: Mapping[str, Any]) -> None:
    import rasterio

    count, height, width = values.shape
    part = path.with_suffix(".part")
    with rasterio.open(part, "w", **_profile(count, height, width, values.dtype.name), **creation) as target:
        target.write(values)
    os.replace(part, path)


def _copy_as_cog(source: Path, target: Path) -> None:
    import rasterio.shutil

    part = target.with_suffix(".part")
    rasterio.shutil.copy(
        source,
        part,
        driver="COG",
        compress="deflate",
        predictor="YES",
        blocksize=BLOCK_PX,
        overviews="NONE",
        num_threads=2,
        bigtiff="IF_SAFER",
    )
    os.replace(part, target)
