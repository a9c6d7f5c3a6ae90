"""Built-in samples: made once, kept in the cache of the user, found by what made them, and whole when they are used.

`flood_sample` is the one of geocore itself; tasks draw theirs.

A sample's folder holds `sample.json` with the hash of every file. All are read at each start, which takes a third of a
second for the largest sample: damage would change what is trained on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from affine import Affine

from geocore.raster.grid import Grid
from geocore.raster.write import write_raster
from geocore.storage.files import (
    atomic_path,
    read_sealed,
    remove_leftovers,
    sha256_file,
    sha256_files,
    sha256_json,
    write_sealed,
)

logger = logging.getLogger(__name__)

_CONTENTS: Final = "sample.json"
_FILES: Final = "files"
_whole: set[Path] = set()
"""Samples that this process has looked through."""


def built_in_sample(name: str, identity: object, build: Callable[[Path], None]) -> Path:
    """The folder of a sample, built when it is not there yet, or is not what was built any more.

    The cache is `$GEOCORE_CACHE`, else `$XDG_CACHE_HOME/geocore`, else `~/.cache/geocore`. Processes that start
    together may build the same sample twice; the last one stays, and both are alike.

    Args:
        name: of the task; the folder is called `<name>-sample-<hash>`.
        identity: JSON value that decides the sample: its arguments and the hash of the code that draws it.
        build: writes the sample into the folder it is given, which does not exist yet.

    Returns:
        The folder.

    Raises:
        StorageError: the cache cannot be written.
    """
    folder = _cache() / f"{name}-sample-{sha256_json(identity)[:12]}"
    if folder in _whole and folder.is_dir():
        return folder
    damage = _damage(folder)
    if damage is not None:
        remove_leftovers(folder.parent)
        if folder.is_dir():
            logger.warning("%s: %s: drawing the built-in sample again", folder, damage)
        else:
            logger.info("drawing the built-in sample, once: %s", folder)
        with atomic_path(folder) as temporary:
            build(temporary)
            write_sealed(temporary / _CONTENTS, {_FILES: sha256_files(temporary)})
    _whole.add(folder)
    return folder


def _damage(folder: Path) -> str | None:
    """What is wrong with a sample; None: nothing."""
    try:
        files = read_sealed(folder / _CONTENTS)[_FILES]
    except (OSError, ValueError, KeyError):
        return f"{_CONTENTS} is not there, or not what was written"
    for place, digest in files.items():
        try:
            if sha256_file(folder / place) != digest:
                return f"{place} is not what was drawn"
        except OSError as error:
            return f"{place}: {error.strerror}"
    return None


def _cache() -> Path:
    if own := os.environ.get("GEOCORE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geocore"


_PIXEL_M: Final = 10.0
_CHIP_PX: Final = 128
_WATER_LEVEL: Final = -0.15
_SHORE: Final = 0.06
"""Heights over which pixels are in part water."""
_BANDS: Final = ("green", "red", "nir", "swir")
_LAND: Final = (900, 1100, 2600, 2200)
_WATER: Final = (700, 450, 250, 120)
"""Reflectance x 10,000 in each of the bands."""


def flood_sample() -> Path:
    """The folder of geocore's own sample, which `geocore.sample` describes.

    Raises:
        StorageError: the cache cannot be written.
    """
    return built_in_sample("flood", {"code": sha256_file(Path(__file__))}, _draw_flood)


def _draw_flood(folder: Path) -> None:
    """Two overlapping scenes of a flooded plain, the truth of the first, and chips with masks."""
    folder.mkdir()
    _draw_scene(folder / "scene.tif", (500_000.0, 5_000_000.0), (700, 900), folder / "truth.tif", notched=True)
    _draw_scene(folder / "east.tif", (506_000.0, 4_999_000.0), (700, 900), None)
    (folder / "chips").mkdir()
    for row in range(4):
        for col in range(6):
            corner = 520_000.0 + col * _CHIP_PX * _PIXEL_M, 5_000_000.0 - row * _CHIP_PX * _PIXEL_M
            chip = folder / "chips" / f"r{row}c{col}.tif"
            _draw_scene(chip, corner, (_CHIP_PX, _CHIP_PX), chip.with_name(f"{chip.stem}_mask.tif"))


def _draw_scene(
    path: Path, corner: tuple[float, float], shape: tuple[int, int], mask: Path | None, *, notched: bool = False
) -> None:
    """Draw what lies at a place of the one plain: where scenes overlap they show the same ground, with other noise.

    Args:
        path: the image.
        corner: easting and northing of its upper left corner, m.
        shape: rows and columns.
        mask: 0 land, 1 water, 255 missing; None: not written.
        notched: whether a corner is missing, as at the edge of a swath.
    """
    x, y = corner
    grid = Grid(*shape, Affine(_PIXEL_M, 0.0, x, 0.0, -_PIXEL_M, y), "EPSG:32652", length_unit="m")
    east, north = (x + _PIXEL_M * np.arange(shape[1])) / 1000, (y - _PIXEL_M * np.arange(shape[0]))[:, None] / 1000
    depth = _WATER_LEVEL - _height(east, north)
    share = np.clip(depth / _SHORE + 0.5, 0.0, 1.0)
    noise = np.random.default_rng([int(x), int(y)])
    texture = 1 + 0.12 * _height(3.1 * north, 2.7 * east) + 0.04 * noise.standard_normal(shape)
    levels = share * np.reshape(_WATER, (4, 1, 1)) + (1 - share) * np.reshape(_LAND, (4, 1, 1))
    values = np.clip(levels * texture + 25 * noise.standard_normal((4, *shape)), 1, 10_000).astype(np.uint16)
    classes = (depth > 0).astype(np.uint8)
    if notched:
        missing = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) < 160
        values[:, missing], classes[missing] = 0, 255
    # Overviews would take longer than all the rest.
    write_raster(path, values, grid=grid, nodata=0, band_names=_BANDS, cog=False)
    if mask is not None:
        write_raster(mask, classes, grid=grid, nodata=255, cog=False)


def _height(east: npt.NDArray[Any], north: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Ground of a plain with winding channels: waves of 0.6 to 7 km in several directions, about -1 to 1.

    Args:
        east: of the pixels, km.
        north: likewise; both broadcast.
    """
    waves = np.random.default_rng(52).uniform([0.15, 0.0, 0.0], [1.6, 2 * np.pi, 2 * np.pi], (14, 3))
    height = np.zeros(np.broadcast_shapes(east.shape, north.shape))
    for frequency, direction, phase in waves:
        along = east * np.cos(direction) + north * np.sin(direction)
        height += np.sin(2 * np.pi * frequency * along + phase) / (1 + frequency)
    return height / 2.5
