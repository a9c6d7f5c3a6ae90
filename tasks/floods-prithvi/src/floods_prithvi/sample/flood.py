"""Chips of floods as Sentinel-2 sees them, with the water exactly known.

A river winds through fields; where the ground lies low the flood covers it, and ponds stay from before. What makes
water hard to tell are things of the size of a field and more: silt, plants that stand in the flood, and dark wet soil
and the shadows of clouds, which have an index like that of water.

Top-of-atmosphere reflectances x 10,000 are chosen to lie about the figures measured in real chips (means of the water
and land of Spain_7370579, and of all Sen1Floods11). The path radiance that stays in a shadow, the shapes, and how often
each thing occurs are guesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial

from geocore_synthetic.fields import gaussian_field
from geocore_synthetic.shapes import blob_anywhere, cloud, meander

BANDS: Final = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
"""Of a file, in its order."""
USUAL_PX: Final = 256
"""Edge of a chip in which things have the sizes meant, pixels; in others they grow or shrink with it."""

Kind = Literal["usual", "dry", "drowned", "overcast"]
Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Shape = tuple[int, int]

_COARSE: Final = {"B1": 6, "B5": 2, "B6": 2, "B7": 2, "B8A": 2, "B9": 6, "B10": 6, "B11": 2, "B12": 2}
"""Pixels of 10 m along one of the sensor's own."""
_NOISE: Final = 12.0
"""Standard deviation, reflectance x 10,000."""
_LABELLED_BELOW: Final = 0.25
"""Opacity of clouds from which on nobody can say what lies below, 0-1."""


def _spectrum(*values: float) -> Field:
    return np.asarray(values, dtype=np.float32)[:, None, None]


_LAND: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "crop": _spectrum(1480, 1230, 1250, 1060, 1450, 2450, 2950, 2800, 3150, 450, 11, 1900, 1020),
        "meadow": _spectrum(1500, 1260, 1270, 1180, 1560, 2200, 2520, 2380, 2700, 430, 11, 2150, 1250),
        "forest": _spectrum(1390, 1110, 1050, 840, 1150, 2150, 2650, 2500, 2800, 420, 11, 1480, 720),
        "bare": _spectrum(1600, 1440, 1520, 1660, 1850, 2080, 2250, 2180, 2420, 420, 11, 2480, 1800),
        "stubble": _spectrum(1620, 1460, 1560, 1720, 1960, 2250, 2480, 2400, 2680, 430, 11, 2900, 2050),
        "dark soil": _spectrum(1400, 1150, 1090, 1050, 1080, 1110, 1140, 1100, 1130, 260, 11, 800, 690),
        "town": _spectrum(1760, 1640, 1680, 1780, 1880, 2000, 2100, 2100, 2200, 480, 11, 2150, 1850),
    }
)
_CLEAR: Final = _spectrum(1340, 1060, 900, 680, 640, 520, 520, 460, 430, 160, 10, 170, 110)
_TURBID: Final = _spectrum(1400, 1190, 1210, 1280, 1280, 960, 980, 840, 780, 190, 10, 400, 230)
_SILT: Final = _spectrum(1430, 1250, 1310, 1470, 1580, 1440, 1470, 1350, 1280, 240, 10, 1020, 600)
_PATH: Final = _spectrum(1220, 900, 610, 400, 350, 290, 260, 210, 180, 60, 9, 25, 12)
"""What reaches the sensor from ground that no sunlight reaches."""
_CLOUD: Final = _spectrum(4300, 4200, 4100, 4200, 4300, 4500, 4600, 4400, 4700, 1500, 350, 3100, 2200)


@dataclass(frozen=True, slots=True)
class Look:
    """What the chips of an event have in common."""

    land: Mapping[str, float]
    """Kind of land -> chance of a field to be of it; they add up to 1."""
    silt: float
    """Mean turbidity of the flood: 0 clear, 1 turbid, 2 silt."""
    plants: float
    """Share of the flood in which plants stand, 0-1."""
    tone: float = 1.0
    """Factor on the light from the ground."""
    haze: float = 0.0
    """Share of thin cloud over all of a chip, 0-1."""
    clouds: float = 0.5
    """Chance of a chip to have clouds."""


def draw_chip(
    look: Look, kind: Kind, size: int, rng: np.random.Generator, *, stripes: bool = False, easy: bool = False
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Draw one chip.

    Args:
        look: of its event.
        kind: "usual", "dry" (no water), "drowned" (over 90 % of water), or "overcast" (not a pixel labelled).
        size: edge, pixels.
        rng: source of all randomness.
        stripes: whether some of it is missing.
        easy: clear water in bright land under a blue sky; `look` and `stripes` do not count.

    Returns:
        Shape (13, row, col), int16, reflectance x 10,000, 0 where missing; shape (row, col), int16: 1 water, 0 land,
        -1 under clouds. Water is labelled also where the image is missing.
    """
    shape = (size, size)
    scale = size / USUAL_PX
    look = EASY if easy else look
    image = _draw_land(look, shape, scale, rng)
    water = np.zeros(shape, bool)
    if kind != "dry":
        share = rng.uniform(0.92, 0.97) if kind == "drowned" else float(np.clip(rng.lognormal(-1.6, 0.6), 0.05, 0.5))
        image, water = _draw_water(image, share, look, scale, rng)
    # Optics and resampling mix neighbouring pixels.
    image = ndimage.gaussian_filter(image, (0, 0.6, 0.6))
    image = _PATH + (image - _PATH) * np.float32(look.tone * rng.normal(1, 0 if easy else 0.03))
    label = water.astype(np.int16)
    if kind == "overcast":
        opacity = np.clip(0.85 + 0.1 * gaussian_field(shape, 40 * scale, rng), 0.4, 1)
        image, label[:] = _mixed(image, _CLOUD, opacity), -1
    elif not easy:
        image, opacity = _draw_sky(image, look, scale, rng)
        label[opacity > _LABELLED_BELOW] = -1
    values = _stored(image, rng)
    if stripes and not easy:
        values[:, _stripe(shape, rng)] = 0
    return values, label


EASY: Final = Look({"crop": 0.4, "meadow": 0.3, "bare": 0.3}, silt=0.0, plants=0.0, clouds=0.0)


def _mixed(image: Field, other: Field, share: npt.NDArray[np.floating]) -> Field:
    """Blend (band, row, col) values towards others by a share (row, col), 0-1."""
    return image + (other - image) * share.astype(np.float32)


def parcels(shape: Shape, size_px: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Divide the plane into fields: the Voronoi cells of a lattice that is turned, stretched and shaken.

    Args:
        shape: (row, col), pixels.
        size_px: edge of a field, pixels, about.
        rng: source of all randomness.

    Returns:
        Shape (row, col), int64: 0, 1, ... for each field; not every number need occur.
    """
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 2.2)
    rows, cols = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    along = (rows * np.sin(angle) + cols * np.cos(angle)) / (size_px * np.sqrt(stretch))
    across = (rows * np.cos(angle) - cols * np.sin(angle)) / (size_px / np.sqrt(stretch))
    places = np.stack([along, across], axis=-1)
    low, high = np.floor(places.min((0, 1))) - 1, np.ceil(places.max((0, 1))) + 1
    lattice = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True))), axis=-1)
    seeds = lattice.reshape(-1, 2) + rng.uniform(-0.33, 0.33, (lattice.size // 2, 2))
    return np.asarray(spatial.cKDTree(seeds).query(places)[1], dtype=np.int64)


def _draw_land(look: Look, shape: Shape, scale: float, rng: np.random.Generator) -> Field:
    """Fields, woods and a town now and then, shape (band, row, col)."""
    kinds = list(look.land)
    ids = parcels(shape, 26 * scale, rng)
    count = int(ids.max()) + 1
    chosen = rng.choice(len(kinds), count, p=[look.land[kind] for kind in kinds])
    spectra = np.stack([_LAND[kind][:, 0, 0] for kind in kinds])[chosen]
    # Fields differ in brightness, and in how green they are.
    tints = 1 + 0.06 * rng.standard_normal((count, 1)) + 0.03 * rng.standard_normal((count, len(BANDS)))
    image: Field = np.moveaxis((spectra * tints)[ids], -1, 0).astype(np.float32)
    woods = np.clip(4 * (gaussian_field(shape, 60 * scale, rng) - 1.0) + 0.5, 0, 1)
    image = _mixed(image, _LAND["forest"], woods)
    if "town" in look.land and rng.uniform() < 0.4:
        depth = blob_anywhere(shape, (14 * scale, 34 * scale), rng, stretch=1.6)
        roofs = np.clip(0.6 + 0.5 * gaussian_field(shape, 2.0, rng), 0, 1) * np.clip(5 * depth, 0, 1)
        image = _mixed(image, _LAND["town"], roofs)
    if "dark soil" in look.land and rng.uniform() < 0.6:
        # Wet ground of any outline, as that of a valley, not only whole fields.
        depth = blob_anywhere(shape, (16 * scale, 44 * scale), rng, stretch=2.0)
        image = _mixed(image, _LAND["dark soil"] * np.float32(rng.normal(1, 0.05)), 0.9 * np.clip(4 * depth, 0, 1))
    texture = 0.035 * gaussian_field(shape, 2.0, rng) + 0.04 * gaussian_field(shape, 14 * scale, rng)
    return np.asarray(image * (1 + texture), np.float32)


def _draw_water(image: Field, share: float, look: Look, scale: float, rng: np.random.Generator) -> tuple[Field, Mask]:
    """Flood the lowest ground, and add ponds; also returns where water is, shape (row, col)."""
    shape = (image.shape[1], image.shape[2])
    distance = np.abs(meander(shape, rng, amplitude_px=28 * scale, correlation_px=90 * scale))
    height = (
        distance / (70 * scale)
        + 0.45 * gaussian_field(shape, 75 * scale, rng)
        + 0.10 * gaussian_field(shape, 18 * scale, rng)
    )
    depth = np.quantile(height, share) - height
    # The river itself runs through the flood and beyond it.
    depth = np.maximum(depth, np.minimum(rng.uniform(1.5, 4.5) * scale - distance, 0.6))
    for _ in range(rng.integers(0, 4)):
        pond = blob_anywhere(shape, (5 * scale, 14 * scale), rng, stretch=1.6)
        depth = np.maximum(depth, np.minimum(pond, 0.6))
    water = depth > 0
    turbidity = look.silt + 0.7 * gaussian_field(shape, 85 * scale, rng) - 0.3 * np.clip(depth, 0, 1)
    body = _CLEAR + (_TURBID - _CLEAR) * np.clip(turbidity, 0, 1) + (_SILT - _TURBID) * np.clip(turbidity - 1, 0, 1)
    body = body * (1 + 0.02 * gaussian_field(shape, 8 * scale, rng))
    if look.plants:
        field = gaussian_field(shape, 50 * scale, rng)
        stand = np.clip(3 * (field - np.quantile(field, 1 - look.plants)) + 0.2, 0, 1)
        reach = rng.uniform(0.35, 0.55) * stand * np.clip(1 + 0.25 * gaussian_field(shape, 3.0, rng), 0.4, 1.4)
        # What stands in the flood is green, whatever grew there before.
        body = _mixed(body, 0.5 * (image + _LAND["crop"]), np.clip(reach, 0, 0.65))
    return _mixed(image, body.astype(np.float32), water.astype(np.float32)), water


def _draw_sky(
    image: Field, look: Look, scale: float, rng: np.random.Generator
) -> tuple[Field, npt.NDArray[np.float64]]:
    """Haze, clouds and their shadows; also returns the opacity of the clouds, shape (row, col)."""
    shape = rows, cols = image.shape[1:]
    opacity = np.zeros(shape)
    if rng.uniform() < look.clouds:
        # The sun stands in the south-east: shadows lie above and to the left, also of clouds beyond the border.
        right = round(rng.uniform(24, 48) * scale)
        down = round(right * rng.uniform(0.5, 1.0))
        canvas = np.zeros((rows + down, cols + right))
        for _ in range(rng.integers(2, 8)):
            depth = blob_anywhere(canvas.shape, (14 * scale, 38 * scale), rng, stretch=1.8)
            canvas = np.maximum(canvas, cloud(depth, 16 * scale, rng))
        opacity, shadow = canvas[:rows, :cols], canvas[down:, right:] * rng.uniform(0.7, 0.85)
        image = _PATH + (image - _PATH) * (1 - shadow * (1 - opacity)).astype(np.float32)
    if look.haze:
        thin = np.clip(look.haze * (1 + 0.6 * gaussian_field(shape, 120 * scale, rng)), 0, 0.2)
        image = _mixed(image, _CLOUD, thin)
    return _mixed(image, _CLOUD, opacity), opacity


def _stored(image: Field, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """What the file holds: bands of 20 and 60 m in pixels of their own, repeated; noise; whole numbers from 1."""
    values = np.empty(image.shape, np.int16)
    rows, cols = image.shape[1:]
    for index, name in enumerate(BANDS):
        ratio = _COARSE.get(name, 1)
        padded = np.pad(image[index], ((0, -rows % ratio), (0, -cols % ratio)), mode="edge")
        own = padded.reshape(padded.shape[0] // ratio, ratio, padded.shape[1] // ratio, ratio).mean((1, 3))
        # The band of cirrus is dark and hardly noisy.
        own = own + (0.05 if name == "B10" else 1.0) * _NOISE * rng.standard_normal(own.shape)
        whole = np.clip(np.rint(own), 1, 20_000).astype(np.int16)
        values[index] = whole.repeat(ratio, 0).repeat(ratio, 1)[:rows, :cols]
    return values


def _stripe(shape: Shape, rng: np.random.Generator) -> Mask:
    """The edge of a swath: a slanted stripe from one side to the other, shape (row, col)."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    across = cols + rng.uniform(-0.4, 0.4) * rows - rng.uniform(0.2, 0.7) * shape[1]
    return np.asarray((across >= 0) & (across < rng.uniform(0.05, 0.2) * shape[1]))
