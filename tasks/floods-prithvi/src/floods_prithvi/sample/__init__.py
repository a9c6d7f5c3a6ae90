"""The built-in sample, in the exact formats of Sen1Floods11, HLS Burn Scars and crop chips of three dates.

Labels are exact. Means and standard deviations x 10,000 of labelled training pixels, and of the published chip
Spain_7370579, in green, narrow near infrared and the first short-wave infrared band:

    water  1187 (157)  1093 (509)   680 (394)      1055 (321)   948 (621)   449 (361)
    land   1304 (222)  2572 (622)  1903 (569)      1347 (331)  2560 (658)  1838 (726)

With the default seed a threshold on MNDWI by Otsu, 0.05, has a water IoU of 0.70 on test and 0.64 on the held-out
event, and the one that is best on validation, -0.06, of 0.75 and 0.69; with two other seeds Otsu's lay between 0.68 and
0.72. In the easy sample it has 0.97 and 0.98.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from floods_prithvi.file_patterns import METADATA
from floods_prithvi.sample import burn, events, flood, frames
from floods_prithvi.sample.events import EVENTS, HELD_OUT, Event
from floods_prithvi.sample.flood import Kind
from geocore.storage.files import storage_errors
from geocore.terminal import progress

__all__ = ["CODE", "COUNTS", "write_burn_sample", "write_frames_sample", "write_sample"]

Difficulty = Literal["standard", "easy"]

CODE: Final = (
    __file__,
    *(str(module.__file__) for module in (burn, events, flood, frames)),
)
"""Files that decide what is drawn."""
COUNTS: Final[Mapping[str, int]] = MappingProxyType({"train": 6, "valid": 2, "test": 2, "bolivia": 8})
"""List -> chips of each event that stands on it; only Bolivia stands on its own."""

_PIXEL_DEG: Final = 8.983152841195215e-05
_LABEL_PIXEL_DEG: Final = 8.983152841195184e-05
"""As in published files, whose grids differ in the last digits."""
_FOLDER: Final = Path("v1.1/data/flood_events/HandLabeled")
_LISTS: Final = Path("v1.1/splits/flood_handlabeled")
_TILES: Final = ("T10SFE", "T10TGS", "T11SKU", "T11TLL", "T12TVL", "T13SDT", "T14SMG", "T16SEA")
"""Real tiles; the scars in them are invented."""
_UTM_WKT: Final = (
    'PROJCS["UTM Zone {zone}, Northern Hemisphere",GEOGCS["Unknown datum based upon the WGS 84 ellipsoid",'
    'DATUM["Not_specified_based_on_WGS_84_spheroid",SPHEROID["WGS 84",6378137,298.257223563,'
    'AUTHORITY["EPSG","7030"]]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]]],'
    'PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",{meridian}],'
    'PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],PARAMETER["false_northing",0],'
    'UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)
"""The CRS of published chips, which has no EPSG code."""


def write_sample(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 256,
    counts: Mapping[str, int] = COUNTS,
    difficulty: Difficulty = "standard",
) -> Path:
    """Write floods in the layout of Sen1Floods11 v1.1: chips, hand labels, lists and metadata.

    Of each seven chips on a list one has no water, and of each nine one has over 90 %; the ninth on a list has no
    labelled pixel, and each sixth lacks a stripe.

    Args:
        folder: where to write; made when missing.
        seed: same seed, same chips. A chip does not depend on how many others there are.
        size: edge of a chip, pixels; those of the original have 512.
        counts: chips of each event by list.
        difficulty: "standard", or "easy" for clear water in bright land under a blue sky.

    Returns:
        The folder.
    """
    for path in (folder / _FOLDER / "S2Hand", folder / _FOLDER / "LabelHand", folder / _LISTS):
        path.mkdir(parents=True, exist_ok=True)
    easy = difficulty == "easy"
    for name, count in counts.items():
        rows = []
        events = [event for event in EVENTS if (event.name == HELD_OUT) == (name == "bolivia")]
        for number in progress(count * len(events), f"drawing chips of {name}"):
            event = events[number % len(events)]
            key = [seed, list(COUNTS).index(name), EVENTS.index(event), number // len(events)]
            rng = np.random.default_rng(key)
            # Two chips of an event never share a number: the list and the place on it are part of it.
            chip = f"{event.name}_{1000 * (100 + key[1]) + 7 * key[3] + int(rng.integers(7))}"
            kind, stripes = _kind(number), number % 6 == 2
            values, label = flood.draw_chip(event.look, kind, size, rng, stripes=stripes, easy=easy)
            corner = _corner(event, key[1], key[3], rng)
            _write_flood_chip(folder / _FOLDER, chip, corner, values, label)
            rows.append(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n")
        path = folder / _LISTS / f"flood_{name}_data.csv"
        path.write_text("".join(rows), encoding="utf-8", newline="\n")
    (folder / "v1.1" / METADATA).write_text(json.dumps(_metadata(), indent=1) + "\n", encoding="utf-8", newline="\n")
    return folder


def write_burn_sample(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 256,
    training: int = 10,
    validation: int = 4,
    difficulty: Difficulty = "standard",
) -> Path:
    """Write burn scars in the layout of HLS Burn Scars: `training` and `validation`, two chips to a tile.

    Args:
        folder: where to write; made when missing.
        seed: same seed, same chips.
        size: edge of a chip, pixels; those of the original have 512.
        training: chips to train on, at most 8 to have tiles of their own.
        validation: chips in the other folder.
        difficulty: "standard", or "easy" for whole scars on level ground without rock, water and missing corners.

    Returns:
        The folder.
    """
    for part, first, count in (("training", 0, training), ("validation", training, validation)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            rng = np.random.default_rng([seed, number])
            tile = _TILES[number // 2 % len(_TILES)]
            day = date(2018 + number % 4, 7, 1) + timedelta(days=int(rng.integers(120)))
            name = f"subsetted_{size}x{size}_HLS.S30.{tile}.{day:%Y%j}.v1.4"
            values, mask = burn.draw_chip(size, rng, wedge=number % 3 == 1, easy=difficulty == "easy")
            place = Affine(30, 0, 399_960 + 30 * size * (number % 2), 0, -30, 4_400_040 - 30_000 * (number // 2))
            zone = int(tile[1:3])
            crs = CRS.from_wkt(_UTM_WKT.format(zone=zone, meridian=6 * zone - 183))
            image, label = folder / part / f"{name}_merged.tif", folder / part / f"{name}.mask.tif"
            _write(image, values, crs=crs, transform=place, nodata=burn.NODATA)
            _write(label, mask[np.newaxis], crs=crs, transform=place, nodata=-1)
    return folder


def write_frames_sample(
    folder: Path, *, seed: int = 0, size: int = 224, training: int = 12, validation: int = 4
) -> Path:
    """Write crops in the layout of the multi-temporal chips: 18 bands, the six of the first date first, and two lists.

    Args:
        folder: where to write; made when missing.
        seed: same seed, same chips.
        size: edge of a chip, pixels.
        training: chips on the first list; four at a time share the first number of their names.
        validation: chips on the second list.

    Returns:
        The folder.
    """
    for part, first, count in (("training", 0, training), ("validation", training, validation)):
        (folder / f"{part}_chips").mkdir(parents=True, exist_ok=True)
        names = []
        for number in range(first, first + count):
            values, label = frames.draw_chip(size, np.random.default_rng([seed, number]))
            name = f"chip_{100 + number // 4:03d}_{200 + number % 4:03d}"
            place = Affine(30, 0, -200_000 + 30 * size * (number % 4), 0, -30, 2_000_000 - 30 * size * (number // 4))
            crs = CRS.from_epsg(5070)
            _write(folder / f"{part}_chips" / f"{name}_merged.tif", values, crs=crs, transform=place)
            _write(folder / f"{part}_chips" / f"{name}.mask.tif", label[np.newaxis], crs=crs, transform=place)
            names.append(f"{name}\n")
        (folder / f"{part}_data.txt").write_text("".join(names), encoding="utf-8", newline="\n")
    return folder


def _kind(number: int) -> Kind:
    if number % 9 == 8:
        return "overcast"
    if number % 7 == 3:
        return "dry"
    return "drowned" if number % 9 == 5 else "usual"


def _corner(event: Event, of_list: int, number: int, rng: np.random.Generator) -> tuple[float, float]:
    """Longitude and latitude of the upper left corner of a chip: each has ground of its own, up to 512 pixels wide."""
    right, down = 0.08 * (number % 10), 0.08 * (number // 10) + 0.2 * of_list
    return event.longitude - 0.4 + right + rng.uniform(0, 0.03), event.latitude + 0.4 - down - rng.uniform(0, 0.03)


def _write_flood_chip(
    folder: Path,
    chip: str,
    corner: tuple[float, float],
    values: npt.NDArray[np.int16],
    label: npt.NDArray[np.int16],
) -> None:
    west, north = corner
    image, mask = (folder / part / f"{chip}_{part}.tif" for part in ("S2Hand", "LabelHand"))
    crs = CRS.from_epsg(4326)
    _write(
        image,
        values,
        crs=crs,
        transform=Affine(_PIXEL_DEG, 0, west, 0, -_PIXEL_DEG, north),
        nodata=0,
        names=flood.BANDS,
        compress=True,
    )
    transform = Affine(_LABEL_PIXEL_DEG, 0, west, 0, -_LABEL_PIXEL_DEG, north)
    _write(mask, label[np.newaxis], crs=crs, transform=transform, compress=True)


def _write(
    path: Path,
    values: npt.NDArray[Any],
    *,
    crs: CRS,
    transform: Affine,
    nodata: float | None = None,
    names: Sequence[str] | None = None,
    compress: bool = False,
) -> None:
    """Write (band, row, col) band after band: plain strips, or packed, each band in one tile as Sen1Floods11 has it."""
    count, rows, cols = values.shape
    packed: dict[str, Any] = {}
    if compress:
        sides = {"blockxsize": -(-cols // 16) * 16, "blockysize": -(-rows // 16) * 16}
        packed = {"tiled": True, "compress": "deflate"} | sides
    # In memory: of a full disk GDAL tells in many ways, and at times in none.
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=rows,
            width=cols,
            count=count,
            dtype=values.dtype,
            crs=crs,
            transform=transform,
            nodata=nodata,
            interleave="band",
            **packed,
        ) as file:
            file.write(values)
            if names is not None:
                file.descriptions = tuple(names)
        with storage_errors(path):
            path.write_bytes(memory.read())


def _metadata() -> dict[str, Any]:
    """Dates of the events, and of one that has no chips, as the original's."""
    known = [(e.location, e.country, e.date, e.latitude, e.longitude) for e in EVENTS]
    features = []
    for location, country, day, latitude, longitude in [*known, ("Colombia", "CO", "2018/08/22", 7.5, -74.5)]:
        west, east, south, north = longitude - 0.5, longitude + 0.5, latitude - 0.5, latitude + 0.5
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        properties = {
            "location": location,
            "ISO_CC": country,
            "s1_date": day,
            "s2_date": day,
            "orbit": "Descending",
            "rel_orbit_num": 1,
            "VH_thresh": -20,
            "train_chip": COUNTS["train"],
            "val_chip": COUNTS["valid"],
        }
        shape = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": properties, "geometry": shape})
    return {"type": "FeatureCollection", "name": METADATA.removesuffix(".geojson"), "features": features}
