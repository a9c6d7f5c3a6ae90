"""The built-in sample: near-infrared photographs of snow-pit walls with exactly known layers.

A pit has one stratigraphy, drawn from (seed, pit); each of its photos, drawn from (seed, pit, photo), is another crop
of that wall under another light. Brightness steps between layers are 2-8 % of full scale, as row means of published
photos differ. How much the inside of a layer varies was set by fourteen published tiles (marlens123/snowpack,
`assets/batch_1.png`, at half size): standard deviations, % of full scale, in bands of 0-2, 2-6, 6-20 and over 20 px
have the medians 0.4, 0.5, 0.65 and 1.05 there and 0.55, 0.4, 0.55 and 1.05 here. Brightness is in shares of the full
scale of 16 bits until it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from geocore.raster.grid import Grid
from geocore.raster.write import write_raster
from geocore.terminal import progress
from geocore_synthetic.fields import gaussian_field, wandering_curve
from geocore_synthetic.illumination import gradient, panel_numbers, seam_gains, vignetting
from geocore_synthetic.noise import shot, speckle, spots

IGNORE = 255
"""Label of pixels that are not wall."""

Difficulty = Literal["standard", "flat"]

_FULL_SCALE = 65535
_DARKEST, _BRIGHTEST = 41_000, 65_500
_STEPS = (0.02, 0.08)
"""Smallest and largest brightness step between adjacent layers, share of full scale."""
_FULL_WELL = 60_000
"""Photons at full scale: a noise of 0.4 % of full scale, as between neighbouring pixels of the published tiles."""
_LENS_SHARE = 0.25
"""Chance of an inner layer to be an ice lens."""
_PINCHING_SHARE = 0.35
_PINCHING_BELOW = 0.08
"""Chance of an inner layer to end within the wall where there are five layers or more, and the share of the height
under which it may."""
_ROTATED_SHARE = 0.25
"""Share of photos that were rotated and have black corners."""
_LEAST_SHARE, _LEAST_SHARE_AT_EDGE = 0.03, 0.09
"""Least mean thickness of a layer, share of the height; no crop may lose the first or the last layer."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph and its truth."""

    pit: str
    """Name of the pit: photos of one pit show the same wall and belong into the same split."""
    name: str
    """`<pit>_<photo>`, the stem of the file."""
    values: npt.NDArray[np.uint16]
    """Shape (row, col), uint16, 41000-65500 on the wall, 0 outside."""
    layers: npt.NDArray[np.uint8]
    """Shape (row, col), uint8: layer ids 1, 2, ... from top to bottom, 255 outside the wall."""


@dataclass(frozen=True, slots=True)
class _Wall:
    """A pit's wall: wider than a photo, lengths in pixels of a photo at zoom 1, row 0 at the top of the wall."""

    boundaries: npt.NDArray[np.float64]
    """Shape (boundary, wall col), float64, rows; ascending with the boundary; equal where a layer is pinched out."""
    slope: float
    """Fall of all boundaries to the right, pixels per pixel, about the middle of each photo."""
    brightness: npt.NDArray[np.float64]
    """Shape (layer,), float64, share of full scale."""
    blur_px: npt.NDArray[np.float64]
    """Shape (boundary,), float64: half width of the transition, pixels."""
    grain: npt.NDArray[np.float64]
    """Shape (layer,), float64: standard deviation of the grain, a few pixels wide, share of full scale."""
    blotches: npt.NDArray[np.float64]
    """Shape (layer,), float64: standard deviation of the blotches, some ten pixels wide, share of full scale."""


def write_sample(
    folder: Path,
    *,
    seed: int = 0,
    pits: int = 10,
    photos_per_pit: int = 3,
    shape: tuple[int, int] = (384, 448),
    difficulty: Difficulty = "standard",
) -> list[Path]:
    """Write photos and masks in the format of real ones: `<pit>_<photo>.tif` beside `<pit>_<photo>_mask.tif`.

    Args:
        folder: Where to write; made when missing.
        seed: Same seed, same bytes. Pit 3 does not depend on how many other pits there are.
        pits: Number of pits.
        photos_per_pit: Photos of each pit.
        shape: (row, col) of each photo, pixels; at least 160 by 160.
        difficulty: "standard", or "flat" for level, evenly lit walls without seams.

    Returns:
        The photos' paths, in the order of their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    photos = sample_photos(seed=seed, pits=pits, photos_per_pit=photos_per_pit, shape=shape, difficulty=difficulty)
    for photo in progress(photos, "drawing photographs"):
        grid = Grid(height=shape[0], width=shape[1])
        path = folder / f"{photo.name}.tif"
        write_raster(folder / f"{photo.name}_mask.tif", photo.layers, grid=grid, nodata=IGNORE, cog=False)
        write_raster(path, photo.values, grid=grid, nodata=None, cog=False)
        paths.append(path)
    return paths


def sample_photos(
    *, seed: int, pits: int, photos_per_pit: int, shape: tuple[int, int], difficulty: Difficulty = "standard"
) -> Iterator[Photo]:
    """Draw the photos that `write_sample` writes, one after the other; same arguments.

    Raises:
        ValueError: The shape is under 160 by 160, there is no pit or no photo, or the difficulty is unknown.
    """
    if min(shape) < 160 or pits < 1 or photos_per_pit < 1 or difficulty not in ("standard", "flat"):
        raise ValueError(
            f"shape {shape}, {pits} pits, {photos_per_pit} photos, difficulty {difficulty!r}: at least 160 x 160 "
            "pixels, one pit and one photo, and 'standard' or 'flat'"
        )
    for pit in range(pits):
        wall = _draw_wall(shape, difficulty, np.random.default_rng([seed, pit]))
        for number in range(photos_per_pit):
            rng = np.random.default_rng([seed, pit, number + 1])
            values, layers = _take_photo(wall, shape, difficulty, rng)
            yield Photo(f"pit{pit:02d}", f"pit{pit:02d}_{number:02d}", values, layers)


def _draw_wall(shape: tuple[int, int], difficulty: Difficulty, rng: np.random.Generator) -> _Wall:
    """Draw a stratigraphy of 3-12 layers: thicknesses along the wall, brightness, sharpness and grain."""
    height, width = shape[0], 3 * shape[1]
    flat = difficulty == "flat"
    count = int(rng.integers(3, 13))
    # Two lenses do not touch, or they would be one; the first and the last layer are none.
    lens = np.zeros(count, bool)
    for layer in range(1, count - 1):
        lens[layer] = not lens[layer - 1] and rng.uniform() < _LENS_SHARE
    thickness = _draw_thickness(height, lens, rng)
    along = np.tile(thickness[:, None], width)
    common, slope = np.zeros(width), 0.0
    if not flat:
        slope = float(np.clip(rng.normal(0, 0.05), -0.12, 0.12))
        common = wandering_curve(width, rng, amplitude_px=0.012 * height, correlation_px=0.8 * shape[1])
        for layer in range(1, count - 1):
            thin = count >= 5 and thickness[layer] < _PINCHING_BELOW * height
            may_end = bool(lens[layer]) or (thin and rng.uniform() < _PINCHING_SHARE)
            along[layer] = _thin_along(along[layer], may_end, shape, rng)
    boundaries = common + np.cumsum(along, axis=0)[:-1]
    blur_px = rng.uniform(0.5, 1.0 if flat else 2.5, count - 1)
    # A blur as wide as a lens would leave nothing of its contrast.
    beside_lens = lens[:-1] | lens[1:]
    blur_px[beside_lens] = np.minimum(blur_px[beside_lens], 0.8)
    return _Wall(
        boundaries=boundaries,
        slope=slope,
        brightness=_draw_brightness(lens, rng),
        blur_px=blur_px,
        grain=rng.uniform(0.003, 0.006, count) if flat else 0.005 * rng.lognormal(0, 0.35, count),
        blotches=0.010 * rng.lognormal(0, 0.45) * rng.uniform(0.6, 1.4, count),
    )


def _draw_thickness(height: int, lens: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Mean thickness of each layer, pixels, that together fill the height; lenses 2-6 px, others a least share."""
    least = np.where(lens, 0.0, _LEAST_SHARE)
    least[[0, -1]] = _LEAST_SHARE_AT_EDGE
    shares = np.where(lens, 0.0, rng.lognormal(0, 0.7, len(lens)))
    shares = least + (1 - least.sum()) * shares / shares.sum()
    lenses = np.where(lens, rng.uniform(2, 6, len(lens)), 0.0)
    return np.asarray(shares * (height - lenses.sum()) + lenses, dtype=np.float64)


def _thin_along(
    thickness: npt.NDArray[np.float64], may_end: bool, shape: tuple[int, int], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Let a layer swell and thin along the wall; one that may end is pinched out in parts; pixels, (wall col,)."""
    width, mean = len(thickness), float(thickness[0])
    # Thick layers swell by less than their share, or the boundaries below them would climb like walls.
    amplitude = min(0.25, 0.025 * shape[0] / mean)
    swell = wandering_curve(width, rng, amplitude_px=amplitude, correlation_px=0.7 * shape[1])
    rough = wandering_curve(width, rng, amplitude_px=rng.uniform(0.2, 0.8), correlation_px=12)
    along = mean * np.exp(swell) + rough
    if may_end:
        presence = np.clip(0.8 + wandering_curve(width, rng, amplitude_px=0.8, correlation_px=shape[1]), 0, 1)
        along *= presence**2 * (3 - 2 * presence)
    # Under 1.5 px there is nothing to see or to label.
    return np.where(along < 1.5, 0.0, along)


def _draw_brightness(lens: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Brightness of each layer, share of full scale: steps of 2-8 %, lenses darker than the layer above."""
    brightness = [float(rng.uniform(0.82, 0.94))]
    tries = 0
    while len(brightness) < len(lens):
        layer = len(brightness)
        direction = -1 if lens[layer] else 1 if lens[layer - 1] else rng.choice([-1, 1])
        value = brightness[-1] + direction * float(rng.uniform(*_STEPS))
        # Where a layer is pinched out its neighbours meet: they must differ as well.
        meets = layer < 2 or abs(value - brightness[-2]) >= _STEPS[0]
        if 0.70 <= value <= 0.96 and meets:
            brightness.append(value)
        tries += 1
        if tries % 50 == 0:
            # The walk can run into a corner where no step is left; begin again.
            del brightness[1:]
    return np.asarray(brightness)


def _take_photo(
    wall: _Wall, shape: tuple[int, int], difficulty: Difficulty, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Crop the wall, light it, expose it; returns (row, col) uint16 values and uint8 layers."""
    rows, layers = _crop(wall, shape, rng)
    image = np.full(shape, wall.brightness[0])
    depths = np.arange(shape[0])[:, None]
    for row, below, above, blur in zip(rows, wall.brightness[1:], wall.brightness, wall.blur_px, strict=False):
        image += (below - above) * np.clip(0.5 + (depths - row) / (2 * blur), 0, 1)
    image += wall.grain[layers] * gaussian_field(shape, rng.uniform(2.0, 6.0), rng)
    image += rng.uniform(0.001, 0.003) * gaussian_field(shape, rng.uniform(15, 30), rng)
    if difficulty == "standard":
        image += wall.blotches[layers] * gaussian_field(shape, (rng.uniform(8, 24), rng.uniform(12, 40)), rng)
        image += _marks(shape, rng)
        image *= _light(shape, rng)
    else:
        image *= rng.uniform(0.98, 1.02)
    image = shot(image, full_well=_FULL_WELL, rng=rng) * speckle(shape, rng.uniform(0.002, 0.005), rng)
    labels = np.unique(layers, return_inverse=True)[1].reshape(shape) + 1
    valid = np.ones(shape, bool)
    if difficulty == "standard" and rng.uniform() < _ROTATED_SHARE:
        angle = rng.uniform(3, 12) * rng.choice([-1, 1])
        image = ndimage.rotate(image, angle, reshape=False, order=1, mode="nearest")
        labels = ndimage.rotate(labels, angle, reshape=False, order=0, mode="nearest")
        valid = ndimage.rotate(np.ones(shape), angle, reshape=False, order=1) > 0.999
    values = np.clip(np.rint(image * _FULL_SCALE), _DARKEST, _BRIGHTEST).astype(np.uint16)
    # A rotation may push a whole layer out of the picture: number again what is left.
    labels = np.searchsorted(np.unique(labels[valid]), labels) + 1
    return np.where(valid, values, 0).astype(np.uint16), np.where(valid, labels, IGNORE).astype(np.uint8)


def _crop(
    wall: _Wall, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Rows of the boundaries in one crop, shape (boundary, col), and the layer number 0, 1, ... of each pixel."""
    zoom = rng.uniform(0.93, 1.07)
    offset = rng.uniform(-0.02, 0.02) * shape[0]
    first = rng.uniform(0, wall.boundaries.shape[1] - shape[1] / zoom - 1)
    cols = np.arange(shape[1])
    along = np.arange(wall.boundaries.shape[1])
    rows = np.stack([np.interp(first + cols / zoom, along, boundary) for boundary in wall.boundaries])
    rows = (rows - shape[0] / 2) * zoom + shape[0] / 2 + offset + wall.slope * (cols - shape[1] / 2)
    layers = np.zeros(shape, np.int64)
    for row in rows:
        layers += np.arange(shape[0])[:, None] >= row
    return rows, layers


def _marks(shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """What else is on a wall: faint lamination, vertical scrape marks, bright crystals, dark hollows."""
    marks = rng.uniform(0.001, 0.003) * gaussian_field(shape, (3.0, 90.0), rng)
    marks += rng.uniform(0.001, 0.004) * gaussian_field(shape, (150.0, 3.0), rng)
    marks += 0.03 * spots(shape, 2e-4, 1.2, rng)
    marks -= 0.08 * spots(shape, 1e-5, rng.uniform(4, 12), rng)
    return np.asarray(marks, dtype=np.float64)


def _light(shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Lens, lamp and mosaic: vignetting, a slope and a drift of brightness, panels of unequal gain and shading."""
    light = vignetting(shape, rng.uniform(0.02, 0.08), (rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65)))
    light = light * gradient(shape, rng.uniform(0, 0.03), rng.uniform(0, 360))
    light *= 1 + rng.uniform(0.003, 0.012) * gaussian_field(shape, (2.0 * shape[0], 0.6 * shape[1]), rng)
    row_seams = np.sort(rng.uniform(0.15, 0.85, rng.integers(0, 3)) * shape[0]).astype(int)
    col_seams = np.sort(rng.uniform(0.10, 0.90, rng.integers(0, 3)) * shape[1]).astype(int)
    light *= seam_gains(shape, row_seams.tolist(), col_seams.tolist(), rng.uniform(0.006, 0.025), rng)
    panels = panel_numbers(shape, row_seams.tolist(), col_seams.tolist())
    shading = rng.uniform(-0.006, 0.006, int(panels.max()) + 1)[panels]
    light *= 1 + shading * gaussian_field(shape, 0.7 * max(shape), rng)
    return np.asarray(light, dtype=np.float64)
