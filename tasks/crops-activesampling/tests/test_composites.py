"""Medians equal a plain loop, periods are pandas' own, and no band or date ever changes its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crops_activesampling import composites
from crops_activesampling.composites import (
    SCALE,
    composite,
    fill_gaps,
    patch_composites,
    period_edges,
)
from crops_activesampling.config import CompositeSettings
from crops_activesampling.patch_writer import NewPatch, write_patch
from crops_activesampling.s4a_format import RATIOS, PatchName, open_patch
from geocore.errors import DataError, SettingsError
from geocore.raster.npy_store import map_array, write_cached

NAME = PatchName(2019, "31TCG", 0, 0)


def edges_of(*days: str) -> np.ndarray:
    return np.array(days, "datetime64[D]")


def naive(values: np.ndarray, times: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `composite` has to give, a pixel at a time."""
    shape = (len(edges) - 1, *values.shape[1:])
    medians, counts = np.zeros(shape), np.zeros(shape, int)
    for period, row, col in np.ndindex(shape):
        seen = []
        for time, image in zip(times, values, strict=True):
            if edges[period] <= time < edges[period + 1] and image[row, col] != 0:
                seen.append(int(image[row, col]))
        counts[period, row, col] = len(seen)
        medians[period, row, col] = np.median(seen) if seen else 0
    return medians, counts


def write(folder: Path, bands: dict[str, tuple[np.ndarray, np.ndarray]], size: int) -> Path:
    plane = np.ones((size, size), np.uint32)
    return write_patch(folder, NewPatch(NAME, (0.0, 0.0), "EPSG:32631", bands, plane, plane, {}))


@pytest.mark.parametrize("highest, dtype", [(32767, np.uint16), (65535, np.float32)])
def test_medians_equal_a_plain_loop(highest: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    days = rng.choice(365, 60, replace=False)
    times = np.datetime64("2019-01-01") + days
    values = rng.integers(1, highest + 1, (60, 7, 5)).astype(np.uint16)
    values[rng.uniform(size=values.shape) < 0.4] = 0
    # A month without images, a day that ends a period and one that begins the next.
    edges = period_edges(CompositeSettings(), 2019)
    keep = times.astype("datetime64[M]") != np.datetime64("2019-06")
    times, values = times[keep], values[keep]
    times[0], times[1] = np.datetime64("2019-01-31"), np.datetime64("2019-02-01")
    medians, counts = composite(values, times, edges)
    expected, seen = naive(values, times, edges)
    assert medians.dtype == dtype
    assert counts.dtype == np.uint8
    np.testing.assert_array_equal(medians * SCALE, expected)
    np.testing.assert_array_equal(counts, seen)
    assert (seen[5] == 0).all() and (medians[5] == 0).all()
    assert {0, 1, 2, 3} <= set(np.unique(seen).tolist())


def test_pixels_are_composed_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    times = np.datetime64("2019-01-01") + rng.choice(365, 40, replace=False)
    values = rng.integers(0, 40_000, (40, 17, 11)).astype(np.uint16)
    values[::3] = values[::3].clip(min=1)
    edges = period_edges(CompositeSettings(frequency="2MS"), 2019)
    whole = composite(values, times, edges)
    assert whole[0].dtype == np.float32
    monkeypatch.setattr(composites, "_SCRATCH_VALUES", 0)
    for pixels in (1, 13, 186, 187, 1000):
        monkeypatch.setattr(composites, "_FEWEST_PX", pixels)
        for part, expected in zip(composite(values, times, edges), whole, strict=True):
            assert part.dtype == expected.dtype
            np.testing.assert_array_equal(part, expected)
    medians, counts = naive(values, times, edges)
    np.testing.assert_array_equal(whole[0] * SCALE, medians)
    np.testing.assert_array_equal(whole[1], counts)


@pytest.mark.parametrize(
    "low, high, dtype", [(32767, 32767, np.uint16), (32766, 32768, np.uint16), (32767, 32768, np.float32)]
)
def test_medians_become_float_where_twice_of_one_is_more_than_65534(low: int, high: int, dtype: type) -> None:
    values = np.array([5, low, high], np.uint16)[:, None, None]
    times = edges_of("2019-01-05", "2019-02-05", "2019-02-06")
    medians, _ = composite(values, times, edges_of("2019-01-01", "2019-02-01", "2019-03-01"))
    assert medians.dtype == dtype
    assert (medians.ravel() * SCALE).tolist() == [5, (low + high) / 2]


def test_a_series_without_images_has_no_medians() -> None:
    medians, counts = composite(np.zeros((0, 3, 2), np.uint16), edges_of(), edges_of("2019-01-01", "2019-02-01"))
    assert medians.shape == counts.shape == (1, 3, 2)
    assert not medians.any() and not counts.any()


def test_threads_make_what_one_thread_makes_whatever_type_a_band_needs(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    times = np.datetime64("2019-01-01") + 10 * np.arange(30)
    bands = {
        band: (rng.integers(0, highest, (30, 12 // RATIOS[band], 12 // RATIOS[band])).astype(np.uint16), times)
        for band, highest in (("B02", 9000), ("B03", 65_536), ("B8A", 9000), ("B09", 9000))
    }
    settings = CompositeSettings(bands=list(bands))
    with open_patch(write(tmp_path, bands, 12)) as patch:
        one = patch_composites(patch, settings)
        assert one.medians.dtype == np.float32
        for threads in (2, 7):
            made = patch_composites(patch, settings, threads=threads)
            assert made.medians.dtype == one.medians.dtype
            np.testing.assert_array_equal(made.medians, one.medians)
            np.testing.assert_array_equal(made.counts, one.counts)
        narrow = patch_composites(patch, CompositeSettings(bands=["B02", "B8A", "B09"])).medians
        assert narrow.dtype == np.uint16
        np.testing.assert_array_equal(one.medians[:, [0, 2, 3]], narrow)


def test_a_period_begins_with_its_first_day_and_ends_before_the_next() -> None:
    times = np.array(["2019-01-31", "2019-02-01", "2018-12-31", "2019-03-01"], "datetime64[D]")
    values = np.array([10, 20, 30, 40], np.uint16)[:, None, None]
    medians, counts = composite(values, times, edges_of("2019-01-01", "2019-02-01", "2019-03-01"))
    assert medians.ravel().tolist() == [20, 40]
    assert counts.ravel().tolist() == [1, 1]


def test_a_median_of_two_keeps_its_half() -> None:
    values = np.array([7, 10], np.uint16)[:, None, None]
    medians, _ = composite(values, edges_of("2019-01-01", "2019-01-02"), edges_of("2019-01-01", "2019-02-01"))
    assert medians[0, 0, 0] * SCALE == 8.5


def test_more_images_than_a_byte_counts_still_give_the_median() -> None:
    times = np.datetime64("2019-01-01") + np.arange(301)
    values = np.arange(1, 302, dtype=np.uint16)[:, None, None]
    medians, counts = composite(values, times, edges_of("2019-01-01", "2020-01-01"))
    assert (medians[0, 0, 0] * SCALE, counts[0, 0, 0]) == (151, 255)


@pytest.mark.parametrize("frequency", ["1MS", "2MS", "10D", "QS", "1W", "SMS"])
@pytest.mark.parametrize("year", [2019, 2020])
def test_periods_are_those_of_pandas(frequency: str, year: int) -> None:
    pandas = pytest.importorskip("pandas")
    days = pandas.date_range(f"{year}-01-01", f"{year}-12-31")
    edges = period_edges(CompositeSettings(frequency=frequency), year)
    assert (edges[0], edges[-1]) == (np.datetime64(f"{year}-01-01"), np.datetime64(f"{year + 1}-01-01"))
    offset = pandas.tseries.frequencies.to_offset(frequency)
    groups = pandas.Series(np.arange(len(days)), index=days).resample(offset, closed="left", label="left")
    if frequency != "2MS":  # pandas' resampling counts pairs of months from another one than its own date_range
        sizes = [len(group) for _, group in groups if len(group)]
        assert np.diff(edges).astype(int).tolist() == sizes
    else:
        assert [str(day)[5:7] for day in edges] == ["01", "03", "05", "07", "09", "11", "01"]


def test_a_series_may_begin_within_a_month_and_cross_the_year() -> None:
    settings = CompositeSettings(start="2018-11-15", end="2019-02-10")
    expected = ["2018-11-15", "2018-12-01", "2019-01-01", "2019-02-01", "2019-02-11"]
    assert period_edges(settings, 2019).astype(str).tolist() == expected


@pytest.mark.parametrize(
    "settings, rule",
    [
        ({"frequency": "monthly"}, "pandas frequency"),
        ({"frequency": "6h"}, "whole days"),
        ({"frequency": "36h"}, "whole days"),
        ({"frequency": "-1MS"}, "pandas frequency"),
        ({"frequency": "0D"}, "pandas frequency"),
        ({"frequency": "1ME"}, "last days"),
        ({"start": "2019-31-01"}, "YYYY-MM-DD"),
        ({"start": "2019-06-01", "end": "2019-05-01"}, "must not end before"),
    ],
)
def test_periods_that_cannot_be_made_are_one_line(settings: dict[str, str], rule: str) -> None:
    with pytest.raises(SettingsError, match=rule) as error:
        period_edges(CompositeSettings(**settings), 2019)
    assert "\n" not in str(error.value)


def test_filling_is_linear_in_time_and_never_goes_beyond_the_ends() -> None:
    edges = edges_of("2019-01-01", "2019-01-11", "2019-01-21", "2019-02-20", "2019-03-02", "2019-03-12")
    medians = np.array([[0, 0, 100], [100, 7, 100], [0, 0, 0], [200, 0, 101], [0, 0, 0]], np.uint16)[:, :, None]
    filled = fill_gaps(medians, edges)
    assert filled.dtype == np.uint16
    # Middles of the periods 1, 2, 3 are the days 15, 35 and 55.
    np.testing.assert_array_equal(filled[:, 0, 0], [0, 100, 150, 200, 0])
    np.testing.assert_array_equal(filled[:, 1, 0], [0, 7, 0, 0, 0])
    np.testing.assert_array_equal(filled[:, 2, 0], [100, 100, 100, 101, 0])
    uneven = fill_gaps(
        medians, edges_of("2019-01-01", "2019-01-11", "2019-01-21", "2019-01-31", "2019-04-01", "2019-04-11")
    )
    # Days 15, 25 and 60: ten forty-fifths of the way.
    assert uneven[2, 0, 0] == round(100 + 100 * 10 / 45)


def test_filled_pixels_count_no_image(tmp_path: Path) -> None:
    times = edges_of("2019-01-05", "2019-03-05")
    values = np.stack([np.full((6, 6), 100, np.uint16), np.full((6, 6), 200, np.uint16)])
    with open_patch(write(tmp_path, {"B02": (values, times)}, 6)) as patch:
        plain = patch_composites(patch, CompositeSettings(bands=["B02"]))
        filled = patch_composites(patch, CompositeSettings(bands=["B02"], fill="linear"))
    assert plain.medians[:, 0, 0, 0].tolist() == [200, 0, 400] + [0] * 9
    assert filled.medians[:, 0, 0, 0].tolist() == [200, 300, 400] + [0] * 9  # 29.5 of 59 days
    np.testing.assert_array_equal(filled.counts, plain.counts)
    assert plain.counts[:, 0, 0, 0].tolist() == [1, 0, 1] + [0] * 9


def test_coarse_bands_are_repeated_exactly_and_bands_come_in_the_order_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    times = np.datetime64("2019-01-01") + 10 * np.arange(30)
    bands = {
        band: (rng.integers(1, 9000, (30, 12 // RATIOS[band], 12 // RATIOS[band])).astype(np.uint16), times)
        for band in ("B02", "B8A", "B09")
    }
    with open_patch(write(tmp_path, bands, 12)) as patch:
        made = patch_composites(patch, CompositeSettings(bands=["B09", "B02", "B8A"]))
    assert made.medians.shape == made.counts.shape == (12, 3, 12, 12)
    for place, band in enumerate(("B09", "B02", "B8A")):
        medians, counts = composite(*bands[band], made.edges)
        for row, col in np.ndindex(12, 12):
            own = (row // RATIOS[band], col // RATIOS[band])
            assert (made.medians[:, place, row, col] == medians[:, *own]).all()
            assert (made.counts[:, place, row, col] == counts[:, *own]).all()


TAGS = ["B08", "B02", "B11", "B04"]
MONTHS = 12


def tagged(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Composites of a patch whose values say their band and month (100 * band + month), and what they must be."""
    times = np.array([f"2019-{month + 1:02d}-10" for month in range(MONTHS)], "datetime64[D]")
    bands = {}
    for place, band in enumerate(TAGS):
        own = 12 // RATIOS[band]
        tags = 100 * (place + 1) + np.arange(MONTHS, dtype=np.uint16)
        bands[band] = (np.broadcast_to(tags[:, None, None], (MONTHS, own, own)).copy(), times)
    with open_patch(write(folder, bands, 12)) as patch:
        medians = patch_composites(patch, CompositeSettings(bands=TAGS)).medians
    expected = 100 * (np.arange(len(TAGS)) + 1)[None, :] + np.arange(MONTHS)[:, None]
    return medians, expected


def untouched(medians: np.ndarray, expected: np.ndarray) -> bool:
    """Whether every pixel of each (period, band) still says its own period and band."""
    return bool((medians * SCALE == expected[:, :, None, None]).all())


def test_a_tagged_cube_survives_storage_and_reading(tmp_path: Path) -> None:
    medians, expected = tagged(tmp_path)
    folder = write_cached(tmp_path, "entry", {"medians": medians}, fingerprint="x")
    stored = map_array(folder / "medians.npy")
    assert stored.shape == (MONTHS, len(TAGS), 12, 12)
    assert untouched(stored, expected)


def test_a_transposed_view_cut_by_strides_is_caught_by_the_tags(tmp_path: Path) -> None:
    # The defect of the published medians: (band, time) is turned into (time, band) as a view, and then cut into
    # windows with the strides that a contiguous array of the new shape would have.
    medians, expected = tagged(tmp_path)
    by_band = np.ascontiguousarray(medians.swapaxes(0, 1))
    view = by_band.swapaxes(0, 1)
    assert view.shape == medians.shape and untouched(view, expected)
    size = view.itemsize
    strides = tuple(size * int(np.prod(view.shape[axis + 1 :])) for axis in range(4))
    scrambled = np.lib.stride_tricks.as_strided(view, view.shape, strides)
    folder = write_cached(tmp_path, "entry", {"medians": scrambled}, fingerprint="x")
    stored = map_array(folder / "medians.npy")
    assert stored.shape == medians.shape
    assert not untouched(stored, expected)
    # Slot (t, b) holds band (t B + b) div T and month (t B + b) mod T.
    slots = np.arange(MONTHS)[:, None] * len(TAGS) + np.arange(len(TAGS))[None, :]
    assert untouched(stored, 100 * (slots // MONTHS + 1) + slots % MONTHS)
    # A contiguous copy of the same view, cut in the same way, is right.
    copied = np.lib.stride_tricks.as_strided(np.ascontiguousarray(view), view.shape, strides)
    assert untouched(copied, expected)


def test_bands_that_are_not_there_or_named_twice_are_one_line(tmp_path: Path) -> None:
    values = np.ones((1, 6, 6), np.uint16)
    with open_patch(write(tmp_path, {"B02": (values, edges_of("2019-05-05"))}, 6)) as patch:
        with pytest.raises(DataError, match=r"no band B04, B08: the file has B02"):
            patch_composites(patch, CompositeSettings(bands=["B04", "B02", "B08"]))
        with pytest.raises(SettingsError, match="B02: name each band once"):
            patch_composites(patch, CompositeSettings(bands=["B02", "B02"]))
        with pytest.raises(SettingsError, match="B2: give bands of Sentinel-2"):
            patch_composites(patch, CompositeSettings(bands=["B2"]))


def test_a_patch_without_any_data_in_the_series_is_one_line(tmp_path: Path) -> None:
    values = np.ones((1, 6, 6), np.uint16)
    path = write(tmp_path, {"B02": (values, edges_of("2019-05-05"))}, 6)
    with open_patch(path) as patch, pytest.raises(DataError, match="no image has data from 2018-01-01 to 2018-12-31"):
        patch_composites(patch, CompositeSettings(bands=["B02"], start="2018-01-01", end="2018-12-31"))
