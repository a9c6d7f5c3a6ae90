"""Monthly medians of patches like Sen4AgriNet's: patches a second, from file to one median a month, band and pixel.

A patch holds 366 x 366 pixels of four bands at about 45 dates, uint16, compressed as the published ones are: one image
a chunk. The median of an even number of dates is the mean of the two in the middle. What a contender finds for the
first patch has to equal the median by definition.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender, Measured, watch

CASE = "patches"
GEOCORE = "crops-activesampling composites"
XARRAY = 'xarray resample("1MS").median()'
BOTTLENECK = "bottleneck.nanmedian by month"

BANDS = ("B02", "B03", "B04", "B08")
_DATES, _SIZE, _YEAR = 45, 366, 2019
_MONTHS = 12

Medians = NDArray[np.float32]
"""Shape (month, band, row, col), NaN where a month has no date."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How many patches."""

    patches: int = 8

    def paths(self, data: Path) -> list[Path]:
        """Files of the patches."""
        folder = data / "patches" / str(_YEAR) / "31TCG"
        return [folder / f"{_YEAR}_31TCG_patch_{number:02d}_00.nc" for number in range(self.patches)]


def make(path: Path, seed: int) -> None:
    """Write a patch, where it is missing."""
    import h5netcdf

    if path.exists():
        return
    rng = np.random.default_rng(seed)
    days = np.sort(rng.choice(365, _DATES, replace=False))
    base = rng.standard_normal((_SIZE // 6, _SIZE // 6)).repeat(6, 0).repeat(6, 1)
    season = 800 * np.sin(days / 365 * np.pi)[:, None, None]
    corner = {"x": 300_000.0 + 10.0 * np.arange(_SIZE), "y": 4_900_000.0 - 10.0 * np.arange(_SIZE)}
    part = path.with_suffix(".part")
    with h5netcdf.File(part, "w") as file:
        for place, band in enumerate(BANDS):
            group = file.create_group(band)
            group.dimensions = {"time": _DATES, "y": _SIZE, "x": _SIZE}
            time = group.create_variable("time", ("time",), "i8", data=days)
            time.attrs["units"], time.attrs["calendar"] = f"days since {_YEAR}-01-01", "proleptic_gregorian"
            for axis, values in corner.items():
                group.create_variable(axis, (axis,), "f8", data=values)
            noise = rng.integers(-60, 60, (_DATES, _SIZE, _SIZE))
            values = np.clip(1500 + 300 * place + 250 * base + season + noise, 1, 10_000).astype(np.uint16)
            chunks = (1, _SIZE, _SIZE)
            group.create_variable(
                band, ("time", "y", "x"), "u2", data=values, chunks=chunks, compression="gzip", compression_opts=4
            )
    os.replace(part, path)


def definition(path: Path) -> Medians:
    """The medians as their definition gives them."""
    import h5py

    found = np.full((_MONTHS, len(BANDS), _SIZE, _SIZE), np.nan, np.float32)
    with h5py.File(path) as file:
        for place, band in enumerate(BANDS):
            months, values = months_of(file[band]["time"][...]), file[band][band][...]
            for month in np.unique(months):
                found[month, place] = np.median(values[months == month], axis=0)
    return found


def months_of(days: NDArray[Any]) -> NDArray[np.int64]:
    """Months, from 0, of days since the first of January."""
    dates = np.datetime64(f"{_YEAR}-01-01") + np.asarray(days).astype("timedelta64[D]")
    return (dates.astype("datetime64[M]") - np.datetime64(f"{_YEAR}-01", "M")).astype(np.int64)


def timed(setting: Setting, data: Path, one: Callable[[Path], Medians]) -> Measured:
    """Time all patches, after a look at what the first one gives.

    Args:
        setting: how many patches.
        data: folder of the data.
        one: medians of a patch.

    Returns:
        Patches a second, with the `mean` of all medians of the first patch.
    """
    paths = setting.paths(data)
    return _timed(paths, one(paths[0]), one)


def _timed(paths: list[Path], first: Medians, one: Callable[[Path], object]) -> Measured:
    if not np.array_equal(first, definition(paths[0]), equal_nan=True):
        raise ValueError("these are not the medians")
    with watch() as seen:
        for path in paths:
            one(path)
    mean = float(np.nanmean(first, dtype=np.float64))
    return Measured(len(paths) / seen.seconds, {**seen.details, "mean": mean})


@dataclass(frozen=True, slots=True)
class Composites:
    """What `crops-medians` computes of a patch: medians and counts."""

    threads: int = 1
    """Bands at once."""

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Measure it."""

        def doubled(path: Path) -> NDArray[Any]:
            return _stored_medians(path, self.threads)

        paths = setting.paths(data)
        # It stores twice the median, 0 where there is none, which only the check has to turn round.
        stored = doubled(paths[0])
        first = np.where(stored == 0, np.float32(np.nan), stored.astype(np.float32) / 2)
        return _timed(paths, first, doubled)


def _stored_medians(path: Path, threads: int) -> NDArray[Any]:
    """The calls of crops-activesampling that are measured."""
    # By name, as no library depends on a task: the environment has it.
    layout: Any = importlib.import_module("crops_activesampling.s4a_format")
    made: Any = importlib.import_module("crops_activesampling.composites")
    config: Any = importlib.import_module("crops_activesampling.config")
    wanted = config.CompositeSettings(frequency="1MS", bands=list(BANDS), fill="none")
    with layout.open_patch(path) as patch:
        medians: NDArray[Any] = made.patch_composites(patch, wanted, threads=threads).medians
    return medians


def xarray_resample(setting: Setting, data: Path) -> Measured:
    """As Sen4AgriNet's own loader does."""
    import xarray

    warnings.filterwarnings("ignore")

    def one(path: Path) -> Medians:
        found = []
        for band in BANDS:
            with xarray.open_dataset(path, group=band, engine="netcdf4") as source:
                monthly = source[band].resample(time="1MS").median(dim="time")
                first = int(monthly["time"].dt.month[0]) - 1
                values = np.full((_MONTHS, _SIZE, _SIZE), np.nan, np.float32)
                values[first : first + monthly.sizes["time"]] = monthly.values
                found.append(values)
        return np.stack(found, axis=1)

    return timed(setting, data, one)


def bottleneck_median(setting: Setting, data: Path) -> Measured:
    """The compiled median of bottleneck, month by month, of what netCDF4 reads."""
    import bottleneck
    import netCDF4

    def one(path: Path) -> Medians:
        found = np.full((_MONTHS, len(BANDS), _SIZE, _SIZE), np.nan, np.float32)
        with netCDF4.Dataset(path) as source:
            source.set_auto_mask(False)
            for place, band in enumerate(BANDS):
                months, values = months_of(source[band]["time"][:]), source[band][band][:]
                for month in np.unique(months):
                    found[month, place] = bottleneck.nanmedian(values[months == month].astype(np.float32), axis=0)
        return found

    return timed(setting, data, one)


def prepare(data: Path, quick: bool) -> None:
    """Make the patches."""
    for seed, path in enumerate(_setting(quick).paths(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path, seed)


def _setting(quick: bool) -> Setting:
    return Setting(1) if quick else Setting()


def cases(quick: bool) -> list[Case]:
    """All patches; peers use one thread whatever they are given."""
    contenders = (
        Contender(GEOCORE, OURS, Composites()),
        Contender(f"{GEOCORE}, two threads", OURS, Composites(threads=2)),
        Contender(XARRAY, "peers", xarray_resample),
        Contender(BOTTLENECK, "peers", bottleneck_median),
    )
    return [Case(CASE, "patches/s", _setting(quick), contenders, agree={"mean": 1e-6})]
