"""The built-in sample: scenes of tundra with retrogressive thaw slumps whose outlines are exactly known.

A slump is a bare bowl or tongue that opens downslope, under a steep headwall that lies in shadow or shows bright ice.
Bars of rivers and patches of bare ground have nearly the same spectrum but no headwall; they are background, as are
lakes, clouds and their shadows.

Reflectances x 10,000 were measured in a Sentinel-2 scene of July 2021 and the outlines that at least half of ten
experts drew there (Nitze et al. 2024, doi:10.1002/ppp.2249; 887 pixels in four slumps, land 47,913, water 7,567). Mean
and, in brackets, standard deviation of blue, green, red, near infrared and both short-wave infrared bands:

    tundra  1029 (54)  910 (68)  833 (92)  2338 (264)  2130 (284)  1102 (144)
    slumps   953 (24)  756 (51)  630 (44)  1080 (305)  1004 (241)   598 (104)
    other bare ground  993  798  705  1175  1018  596
    lakes              887  681  510   295   200  105

Slumps thus stand out in the infrared and hardly in the visible bands, and bare ground that is no slump differs from
them by less than its own spread. In the innermost pixels of slumps the infrared bands fall to 836, 817 and 533: the
mean is such a floor with a sixth of tundra in it, and so it is drawn. Tundra varies by 61, 74, 76 and 179 in the near
infrared at scales (sigma of a Gaussian) of under 1, 1-3, 3-8 and over 8 px. Differences between seasons, the headwall's
spectrum and the shapes are guesses; nothing was measured for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from affine import Affine
from scipy import ndimage

from geocore.raster.grid import Grid
from geocore.raster.write import write_raster
from geocore.terminal import progress
from geocore_synthetic.fields import gaussian_field
from geocore_synthetic.illumination import gradient
from geocore_synthetic.placement import PlacedBlob, place_blobs, seen_parts
from geocore_synthetic.shapes import blob_anywhere, cloud, corner, level_lines, meander

BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")
IGNORED = 4294967295
"""Label of pixels without data, and of scraps of slumps too small for an outline."""

Difficulty = Literal["standard", "easy"]
Field = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_LEAST_PX = 32
"""Smallest slump or part of one that has an id, pixels."""
_SITES = (
    ("EPSG:32652", 10.0, 508_920.0, 7_976_930.0),
    ("EPSG:3413", 3.0, -1_880_000.0, -505_000.0),
    ("EPSG:32608", 3.0, 471_000.0, 7_467_000.0),
)
"""CRS, pixel and upper left corner, metres, of the regions in turn; the next ones lie to the right."""


def _spectrum(*values: float) -> Field:
    return np.asarray(values, dtype=np.float64)[:, None, None]


_TUNDRA = _spectrum(1029, 910, 833, 2338, 2130, 1102)
_FLOOR = _spectrum(939, 727, 591, 836, 817, 533)
_BARE = _spectrum(986, 777, 681, 953, 806, 500)
_LAKE = _spectrum(887, 681, 510, 295, 200, 105)
_CLOUD = _spectrum(5200, 5000, 4900, 5300, 3600, 2700)
_LUSH = _spectrum(0.97, 0.99, 0.93, 1.20, 1.0, 0.95)
"""Factor on tundra where old floors are overgrown: 2804 against 2338 in the near infrared of the measured scene."""
_SHADED = _spectrum(0.92, 0.86, 0.83, 0.62, 0.55, 0.55)
_ICY = _spectrum(1.16, 1.24, 1.30, 1.55, 0.85, 0.75)
"""Factors on the floor of a headwall away from the sun, and of one towards it: ice is bright but for short waves."""
_TEXTURE = (
    (0.0, _spectrum(35, 40, 51, 160, 114, 67)),
    (4.0, _spectrum(28, 33, 47, 144, 108, 61)),
    (13.0, _spectrum(22, 29, 37, 110, 120, 61)),
    (70.0, _spectrum(32, 43, 60, 163, 195, 97)),
)
"""Correlation length, pixels, and deviation of four fields that, once blurred, add up to the measured texture."""
_BRIGHT = _spectrum(0.90, 0.95, 0.93, 0.55, 0.90, 0.92)
_GREEN = _spectrum(-0.44, -0.31, -0.37, 0.84, 0.44, 0.39)
"""How bands vary together, shares of their deviation: about the first two principal components at every scale."""


@dataclass(frozen=True, slots=True)
class SampleScene:
    """One scene and its truth."""

    name: str
    """`<region>_<number>`, the stem of the file."""
    region: str
    """Scenes of one region share light, sensor and ground, and belong into the same split."""
    grid: Grid
    values: npt.NDArray[np.uint16]
    """Shape (band, row, col), uint16, reflectance x 10,000, at least 1; 0 where there are no data."""
    ids: npt.NDArray[np.uint32]
    """Shape (row, col), uint32: 0 background, 1, 2, ... slumps, each 8-connected; 4294967295 ignored."""


@dataclass(frozen=True, slots=True)
class _Region:
    """What the scenes of a region have in common."""

    sun_deg: float
    """Where the light comes from; 0 = right, 90 = up."""
    tone: Field
    """Shape (band, 1, 1), factor on everything but clouds."""
    easy: bool


def write_sample(
    folder: Path,
    *,
    seed: int = 0,
    scenes: int = 32,
    shape: tuple[int, int] = (320, 352),
    difficulty: Difficulty = "standard",
) -> Path:
    """Write scenes `<name>.tif`, their ids `<name>_instances.tif` and the table `pairs.csv`: image, label, region.

    Args:
        folder: Where to write; made when missing.
        seed: Same seed, same bytes. Scene 3 does not depend on how many other scenes there are.
        scenes: Number of scenes; two make a region. Every seventh has no slump.
        shape: (row, col) of each scene, pixels; at least 96 by 96. Smaller scenes have fewer slumps.
        difficulty: "standard", or "easy" for evenly lit slumps of strong contrast, apart from each other, in ground
            without clouds, rivers, bare patches and missing corners.

    Returns:
        Path of the table; its paths are relative to the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["image,label,region"]
    drawn = sample_scenes(seed=seed, scenes=scenes, shape=shape, difficulty=difficulty)
    for scene in progress(drawn, "drawing scenes"):
        image, label = f"{scene.name}.tif", f"{scene.name}_instances.tif"
        write_raster(folder / image, scene.values, grid=scene.grid, nodata=0, band_names=BANDS, cog=False)
        write_raster(folder / label, scene.ids, grid=scene.grid, nodata=IGNORED, cog=False)
        rows.append(f"{image},{label},{scene.region}")
    table = folder / "pairs.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    return table


def sample_scenes(
    *, seed: int, scenes: int, shape: tuple[int, int], difficulty: Difficulty = "standard"
) -> Iterator[SampleScene]:
    """Draw the scenes that `write_sample` writes, one by one; same arguments.

    Raises:
        ValueError: The shape is under 96 by 96, there is no scene, or the difficulty is unknown.
    """
    if min(shape) < 96 or scenes < 1 or difficulty not in ("standard", "easy"):
        raise ValueError(f"{shape}, {scenes}, {difficulty!r}: must be >= 96 x 96 px, >= 1 and 'standard' or 'easy'")
    for index in range(scenes):
        number, easy = index // 2, difficulty == "easy"
        rng = np.random.default_rng([seed, number])
        tone = (1 + 0.03 * rng.standard_normal()) * (1 + 0.03 * _GREEN * rng.standard_normal())
        region = _Region(rng.uniform(0, 360), np.ones_like(tone) if easy else tone, easy)
        rng = np.random.default_rng([seed, number, index % 2 + 1])
        values, ids = _draw_scene(region, shape, rng, bare=index % 7 == 5)
        crs, pixel, left, top = _SITES[number % len(_SITES)]
        left += 25_000.0 * (number // len(_SITES)) + index % 2 * shape[1] * pixel
        grid = Grid(height=shape[0], width=shape[1], crs=crs, transform=Affine(pixel, 0.0, left, 0.0, -pixel, top))
        yield SampleScene(f"region{number:02d}_{index % 2}", f"region{number:02d}", grid, values, ids)


def _draw_scene(
    region: _Region, shape: tuple[int, int], rng: np.random.Generator, *, bare: bool
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32]]:
    """Draw ground, slumps, sky and light; returns (band, row, col) uint16 values and (row, col) uint32 ids."""
    image = _TUNDRA + (0.6 if region.easy else 1.0) * _texture(shape, rng)
    image, taken = _draw_ground(image, region, rng)
    lengths = [] if bare else _draw_lengths(shape, rng)
    slumps = place_blobs(
        taken, lengths, rng, touching=0.0 if region.easy else 0.4, gap_px=8 if region.easy else 3, least_px=_LEAST_PX
    )
    objects = np.zeros(shape, np.int64)
    for number, slump in enumerate(slumps, 1):
        objects[slump.mask] = number
    for slump in slumps:
        image = _draw_slump(image, slump, objects, region, rng)
    # Optics and resampling mix neighbouring pixels: outlines are two pixels wide, as in the measured scene.
    image = ndimage.gaussian_filter(image, (0, 0.6, 0.6)) * region.tone
    valid = np.ones(shape, bool)
    if not region.easy:
        image = _draw_sky(image, objects > 0, region, rng)
        if rng.uniform() < 0.4:
            valid = ~corner(shape, (rng.uniform(0.3, 0.75), rng.uniform(0.3, 0.75)), int(rng.integers(4)))
    image += 5 * rng.standard_normal(image.shape)
    values = np.where(valid, np.clip(np.rint(image), 1, 20_000), 0).astype(np.uint16)
    ids, scraps = seen_parts(objects, valid, _LEAST_PX)
    return values, np.where(valid & ~scraps, ids, IGNORED).astype(np.uint32)


def _draw_lengths(shape: tuple[int, int], rng: np.random.Generator) -> list[float]:
    """Lengths of 5-9 slumps of a scene of the usual size, fewer of a smaller one, pixels."""
    count = max(1, round(rng.integers(5, 10) * min(1.0, shape[0] * shape[1] / 100_000)))
    lengths = np.clip(32 * rng.lognormal(0, 0.45, count), 12, 62)
    if rng.uniform() < 0.2:
        lengths[0] = rng.uniform(100, 140)
    return [min(float(length), 0.5 * min(shape)) for length in lengths]


def _texture(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    """Variation of the tundra, shape (band, row, col), reflectance x 10,000, mean 0."""
    texture = np.zeros((len(BANDS), *shape))
    for length, deviation in _TEXTURE:
        common = _BRIGHT * gaussian_field(shape, length, rng) + _GREEN * gaussian_field(shape, length, rng)
        if length == 0:
            # Detail is shared by neighbouring bands only in part.
            own = np.stack([gaussian_field(shape, 0.0, rng) for _ in BANDS])
            common = np.sqrt(0.5) * (common + own)
        texture += deviation * common
    return texture


def _mixed(image: Field, other: Field, share: Field) -> Field:
    """Blend (band, row, col) values towards others by a share (row, col), 0-1."""
    return np.asarray(image + (other - image) * share)


def _draw_ground(image: Field, region: _Region, rng: np.random.Generator) -> tuple[Field, Mask]:
    """Add water tracks, lakes and, unless the scene is easy, bare patches and a river; also returns where they lie."""
    shape = (image.shape[1], image.shape[2])
    taken = np.zeros(shape, bool)
    tracks = level_lines(shape, rng, width_px=rng.uniform(1.0, 2.0), correlation_px=60.0)
    image = _mixed(image, image * _LUSH, 0.7 * tracks)
    if not region.easy:
        # Some bare ground is like the floor of a slump, some twice as different from it as on average.
        for _ in range(rng.integers(1, 5)):
            depth = blob_anywhere(shape, (8, 32), rng, stretch=rng.choice([1.5, 5.0]))
            cover = np.clip(rng.uniform(3, 12) * depth, 0, 1)
            image = _draw_bare(image, cover, _FLOOR + rng.uniform(0, 2) * (_BARE - _FLOOR), 0.16, rng)
            taken |= depth > 0
        if rng.uniform() < 0.6:
            distance = meander(shape, rng, amplitude_px=rng.uniform(12, 30), correlation_px=rng.uniform(60, 110))
            width = rng.uniform(3, 7)
            # Bars lie on one bank at a time; which one changes along the river.
            bank = 16 * gaussian_field(shape, 45.0, rng)
            bars = (np.abs(distance) < width + np.abs(bank)) & (np.sign(distance) == np.sign(bank)) & (np.abs(bank) > 5)
            cover = ndimage.gaussian_filter(bars.astype(np.float64), 0.7)
            image = _draw_bare(image, cover, _FLOOR + rng.uniform(0, 2) * (_BARE - _FLOOR), 0.16, rng)
            image = _mixed(image, _LAKE * 1.05, np.clip(width - np.abs(distance) + 0.5, 0, 1))
            taken |= bars | (np.abs(distance) < width + 1)
    for _ in range(rng.integers(1, 6)):
        depth = blob_anywhere(shape, (4, 28), rng, stretch=1.5)
        image = _mixed(image, _LAKE * rng.uniform(0.92, 1.08), np.clip(8 * depth, 0, 1))
        taken |= depth > 0
    return image, taken


def _draw_bare(image: Field, cover: Field, floor: Field, tundra: float | Field, rng: np.random.Generator) -> Field:
    """Cover ground by a share (row, col), 0-1, with a bare floor that keeps a share of tundra in streaks and tufts."""
    shape = (image.shape[1], image.shape[2])
    kept = tundra + 0.11 * gaussian_field(shape, 3.0, rng) + 0.09 * gaussian_field(shape, 11.0, rng)
    tone = floor * (1 + 0.03 * rng.standard_normal() + 0.02 * gaussian_field(shape, 6.0, rng))
    return _mixed(image, _mixed(tone, image, np.clip(kept, 0, 0.9)), cover)


def _draw_slump(
    image: Field, slump: PlacedBlob, objects: npt.NDArray[np.int64], region: _Region, rng: np.random.Generator
) -> Field:
    """Draw the floor of one slump, its headwall, the overgrown ground below it and the rim to its neighbours."""
    mask = slump.mask
    if rng.uniform() < 0.4:
        # Below the mouth, where the slump was active before.
        below = np.clip(1.5 + 3 * slump.depth_px / slump.depth_px.max(), 0, 1) * np.clip(-2 * slump.along - 0.6, 0, 1)
        image = _mixed(image, image * _LUSH, below * (objects == 0))
    # The head is fresh; towards the mouth plants come back.
    tundra = 0.03 if region.easy else rng.uniform(0.06, 0.26) - 0.12 * slump.along
    image = _draw_bare(image, mask.astype(np.float64), _FLOOR, tundra, rng)
    own = objects == objects[mask][0]
    depth = ndimage.distance_transform_edt(np.pad(own, 1, mode="edge"))[1:-1, 1:-1]
    width = np.clip(0.09 * np.sqrt(mask.sum()), 1.8, 5.0) * rng.uniform(0.8, 1.3)
    head = np.clip(3 * slump.along - 0.3, 0, 1) * own
    # The wall faces downslope: it is lit where the sun stands over the mouth, but for the shadow of its upper edge.
    lit = 0.5 - 0.5 * np.cos(np.deg2rad(slump.direction_deg - region.sun_deg))
    image = _mixed(image, _FLOOR * (_SHADED + (_ICY - _SHADED) * lit), 0.9 * head * np.clip(width + 0.5 - depth, 0, 1))
    image = _mixed(image, _FLOOR * _SHADED, 0.7 * head * (depth < 1.5))
    rim = own & (ndimage.grey_dilation(np.where(own, 0, objects), (3, 3)) > 0)
    return _mixed(image, _TUNDRA, 0.35 * rim)


def _draw_sky(image: Field, slumps: Mask, region: _Region, rng: np.random.Generator) -> Field:
    """Season, light and, in some scenes, clouds, which leave slumps free, and their shadows, which do not."""
    shape = slumps.shape[0], slumps.shape[1]
    image = image * (1 + 0.03 * _GREEN * rng.standard_normal()) * gradient(shape, rng.uniform(0, 0.06), region.sun_deg)
    image *= 1 + rng.uniform(0.005, 0.02) * gaussian_field(shape, 0.8 * max(shape), rng)
    if rng.uniform() < 0.6:
        return image
    reach, angle = rng.uniform(10, 30), np.deg2rad(region.sun_deg)
    # Away from the slumps, or what lies under the clouds could be in the labels and not in the image.
    clear = np.clip(ndimage.distance_transform_edt(~slumps) / 6 - 1, 0, 1) if slumps.any() else np.ones(shape)
    for _ in range(rng.integers(2, 7)):
        depth = blob_anywhere(shape, (8, 30), rng, stretch=2.0)
        opacity = cloud(depth, 16.0, rng)
        shadow = ndimage.shift(opacity, (reach * np.sin(angle), -reach * np.cos(angle)), order=1, mode="nearest")
        image = image * (1 - 0.4 * shadow)
        image = _mixed(image, _CLOUD, 0.95 * opacity * clear)
    return image
