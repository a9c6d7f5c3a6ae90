"""The built-in sample: synthetic Sen4AgriNet patches of two regions and two years, with exact truth.

Two tiles with other shares of crops and two years with a shifted season; in each of the four, patches to train on
(`patch_x` up to 9), to choose by (10-19) and to test with (from 20), which do not touch each other. Labels are wrong in
the patches to train on alone, in about a tenth of the parcels, most of them in a few places; the true codes lie beside
the patch (`s4a_format.true_labels`). What makes pixels hard to tell apart is said in `series`.

A random forest of 100 trees on the twelve monthly medians (B02, B03, B04, B08) of single pixels reaches a weighted F1
of 0.77 on the patches to test with, trained on 40 000 pixels of which 12 % have wrong labels; with means of 5 x 5
pixels beside them 0.81, and by the majority in each parcel 0.87: that much is there for context. Trees average wrong
labels out (true ones give 0.77 as well), networks do not: three layers of 48 convolutions of 3 x 3, after 800 steps of
16 windows of 32 pixels, reach 0.81 with wrong labels and 0.85 with true ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from crops_activesampling import patch_writer, s4a_format
from crops_activesampling.patch_writer import NewPatch, write_patch
from crops_activesampling.s4a_format import PIXEL_M, RATIOS, PatchName, truth_path
from crops_activesampling.sample import fields, series
from crops_activesampling.sample.fields import LEANINGS, draw_fields
from crops_activesampling.sample.series import Season, draw_season, draw_series
from geocore.storage.files import atomic_path
from geocore.terminal import progress

_MODULES: Final = (s4a_format, patch_writer, fields, series)
CODE: Final = tuple(Path(str(path)) for path in (__file__, *(module.__file__ for module in _MODULES)))
"""Files of the code that draws the sample: their content decides what it is."""

TILES: Final = tuple(LEANINGS)
YEARS: Final = (2019, 2020)
VAL_X: Final = 10
TEST_X: Final = 20
"""First number of a patch's name from which on it is one to choose by, or to test with."""

_CORNERS: Final = {"31TCG": (300_000.0, 4_700_040.0), "31TCJ": (300_000.0, 4_900_020.0)}
_COUNTRIES: Final = {"31TCG": "ES", "31TCJ": "FR"}
_SHIFTS: Final = {("31TCG", 2019): 0.0, ("31TCG", 2020): -9.0, ("31TCJ", 2019): 8.0, ("31TCJ", 2020): -1.0}
_EMPTY_MONTHS: Final = {("31TCG", 2019): 2, ("31TCG", 2020): 11, ("31TCJ", 2019): 4, ("31TCJ", 2020): 1}
_COLUMNS: Final = 4


def write_sample(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 96,
    train: int = 24,
    val: int = 4,
    test: int = 3,
    bands: tuple[str, ...] = tuple(RATIOS),
) -> None:
    """Write patches.

    Args:
        folder: where to; made when missing.
        seed: same seed, same content. A patch does not depend on how many others there are.
        size: pixels of 10 m along a side of a patch; a multiple of 6.
        train: patches to train on in each tile and year, at most 40.
        val: patches to choose by in each tile and year, at most 40.
        test: patches to test with in each tile and year, at most 40.
        bands: groups to write.

    Raises:
        ValueError: the size is no multiple of 6, or there are too many patches.
        StorageError: the disk is full or closed.
    """
    if size % 6 or size < 36:
        raise ValueError(f"size {size}: must be a multiple of 6 from 36 on, since a band of 60 m has a sixth of it")
    for name in progress(sample_names(train, val, test), "drawing patches"):
        write_patch_of_sample(folder, name, seed=seed, size=size, bands=bands)


def sample_names(train: int, val: int, test: int) -> list[PatchName]:
    """Names of the patches of a sample, as many in each tile and year.

    Raises:
        ValueError: more than 40 of a kind.
    """
    if max(train, val, test) > 10 * _COLUMNS:
        raise ValueError(f"{train}, {val}, {test} patches: at most {10 * _COLUMNS} of a kind in each tile and year")
    return [
        PatchName(year, tile, first + number % _COLUMNS, number // _COLUMNS)
        for tile in TILES
        for year in YEARS
        for first, count in ((0, train), (VAL_X, val), (TEST_X, test))
        for number in range(count)
    ]


def write_patch_of_sample(
    folder: Path, name: PatchName, *, seed: int = 0, size: int = 96, bands: tuple[str, ...] = tuple(RATIOS)
) -> Path:
    """Write one patch, and beside it its true codes where labels were made wrong.

    Returns:
        The file.
    """
    own = [seed, name.year, TILES.index(name.tile)]
    season = _season(name, np.random.default_rng([*own, 0]))
    rngs = [np.random.default_rng([*own, name.x, name.y, part]) for part in range(1, 4)]
    fields = draw_fields(name.tile, size, flipped=name.x < VAL_X, rng=rngs[0])
    series = draw_series(fields, season, bands, rngs[1])
    # A quarter of the patches keep their images in another order than that of time, as real ones may.
    shuffled = rngs[2].uniform() < 0.25
    start = np.datetime64(f"{name.year}-01-01", "s")
    written = {}
    for band in bands:
        times = start + season.days[season.band_days[band]].astype("timedelta64[D]")
        order = rngs[2].permutation(len(times)) if shuffled else np.arange(len(times))
        written[band] = (series[band][order], times[order])
    left, top = _CORNERS[name.tile]
    step = PIXEL_M * size
    path = write_patch(
        folder,
        NewPatch(
            name,
            (left + step * name.x, top - step * name.y),
            "EPSG:32631",
            written,
            fields.labels,
            fields.parcels,
            {
                "title": "Synthetic patch in the layout of Sen4AgriNet",
                "authors": "geocore",
                "patch_country_code": _COUNTRIES[name.tile],
                "creation_date": f"01 Jan {name.year + 1}",
                "references": "none: no place on Earth looks like this",
                "institution": "none",
            },
        ),
    )
    if name.x < VAL_X:
        with atomic_path(truth_path(path)) as part:
            np.savez_compressed(part, codes=fields.truth)
    return path


def _season(name: PatchName, rng: np.random.Generator) -> Season:
    key = (name.tile, name.year)
    return draw_season(name.year, _EMPTY_MONTHS[key], _SHIFTS[key], rng)
