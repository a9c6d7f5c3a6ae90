"""The sample is in the layout of Sen4AgriNet, its crops follow their calendars, and its errors are known exactly."""

from __future__ import annotations

from pathlib import Path

import h5netcdf
import numpy as np
import pytest

from crops_activesampling.composites import composite, patch_composites, period_edges
from crops_activesampling.config import CompositeSettings
from crops_activesampling.s4a_format import RATIOS, PatchName, find_patches, open_patch, true_labels, truth_path
from crops_activesampling.sample import (
    TEST_X,
    TILES,
    VAL_X,
    YEARS,
    sample_names,
    write_patch_of_sample,
    write_sample,
)
from crops_activesampling.sample.fields import CROPS, OTHERS, Fields, draw_fields, shares
from crops_activesampling.sample.series import CALENDARS

ROOT = {
    "title", "authors", "patch_full_name", "patch_year", "patch_name", "patch_country_code", "patch_tile",
    "creation_date", "references", "institution", "version",
}  # fmt: skip
PLANE = {"coordinates", "transform", "crs", "res", "is_tiled", "nodatavals", "scales", "offsets", "AREA_OR_POINT"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch to train on and one to test with in each tile and year, with all bands."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, size=48, train=1, val=0, test=1)
    return folder


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Fields]]:
    """Parcels of as many patches to train on as the built-in sample has."""
    return {
        tile: [draw_fields(tile, 96, flipped=True, rng=np.random.default_rng([9, n])) for n in range(16)]
        for tile in TILES
    }


def test_files_have_the_groups_attributes_and_types_of_sen4agrinet(sample: Path) -> None:
    paths = find_patches(sample)
    assert [PatchName.of(path) for path in paths] == sorted(sample_names(1, 0, 1))
    assert len(paths) == 8
    for path in paths:
        name = PatchName.of(path)
        assert path == sample / name.relative
        with h5netcdf.File(path) as file:
            assert set(file.groups) == {*RATIOS, "labels", "parcels"}
            assert not file.variables and not file.dimensions
            assert set(file.attrs) == ROOT
            assert file.attrs["patch_full_name"] == name.id
            assert file.attrs["patch_year"] == str(name.year)
            assert file.attrs["patch_country_code"] == ("ES" if name.tile == "31TCG" else "FR")
            for band, ratio in RATIOS.items():
                group, variable = file[band], file[band][band]
                assert variable.dtype == np.uint16
                assert variable.dimensions == ("time", "y", "x")
                assert variable.shape[1:] == (48 // ratio, 48 // ratio)
                assert set(variable.attrs) == PLANE
                assert variable.compression == "gzip"
                assert group["time"].attrs["units"].startswith("days since ")
                assert group["time"].attrs["calendar"] == "proleptic_gregorian"
                assert (group["band"].shape, group["band"].dtype) == ((), np.int64)
                assert group["x"][1] - group["x"][0] == group["y"][0] - group["y"][1] == 10 * ratio
            for group in ("labels", "parcels"):
                assert file[group][group].dtype == np.uint32
                assert file[group][group].shape == (48, 48)


def test_dates_differ_between_bands_and_not_all_are_in_order(sample: Path) -> None:
    ordered, months = [], {}
    for path in find_patches(sample):
        name = PatchName.of(path)
        with open_patch(path) as patch, h5netcdf.File(path) as file:
            lists = {tuple(patch.times(band).astype(str)) for band in RATIOS}
            assert len(lists) > 1
            for band in RATIOS:
                times = patch.times(band)
                assert 26 <= len(times) <= 60
                assert set(times.astype("datetime64[Y]").astype(str)) == {str(name.year)}
                ordered.append(bool((np.diff(file[band]["time"][...]) > 0).all()))
                months.setdefault((name.tile, name.year), set()).update(times.astype("datetime64[M]").astype(str))
    assert {True, False} == set(ordered)
    # Every tile and year lacks one month in all bands, each its own.
    assert all(len(found) == 11 for found in months.values())
    assert len({frozenset(month[5:] for month in found) for found in months.values()}) == 4


def test_the_same_seed_gives_the_same_patch_whatever_else_is_drawn(sample: Path, tmp_path: Path) -> None:
    name = PatchName(2020, "31TCJ", TEST_X, 0)
    few = ("B08", "B11")
    again = write_patch_of_sample(tmp_path / "same", name, size=48)
    other = write_patch_of_sample(tmp_path / "other", name, size=48, seed=1)
    with open_patch(sample / name.relative) as a, open_patch(again) as b, open_patch(other) as c:
        for band in few:
            np.testing.assert_array_equal(a.series(band)[0], b.series(band)[0])
        np.testing.assert_array_equal(a.parcels(), b.parcels())
        assert not np.array_equal(a.labels(), c.labels())


def test_some_images_are_cloudy_and_some_have_stripes_without_data(sample: Path) -> None:
    cloudy, striped, clear = [], [], []
    for path in find_patches(sample):
        with open_patch(path) as patch:
            values, _ = patch.series("B02")
        bright = (values > 3000).mean(axis=(1, 2))
        empty = (values == 0).mean(axis=(1, 2))
        cloudy.append((bright > 0.05).mean())
        clear.append(((bright == 0) & (empty == 0)).mean())
        striped.append(((empty > 0) & (empty < 1)).mean())
        assert values.max() < 12_001
    assert 0.1 < np.mean(cloudy) < 0.4
    assert 0.04 < np.mean(striped) < 0.2
    assert np.mean(clear) > 0.45


def test_what_has_no_data_at_10_m_has_none_in_the_coarser_bands(sample: Path) -> None:
    path = find_patches(sample)[0]
    with open_patch(path) as patch:
        series = {band: patch.series(band) for band in ("B02", "B11", "B10")}
    days = set.intersection(*({str(day) for day in times} for _, times in series.values()))
    gaps = 0
    for day in sorted(days):
        fine, *coarse = (values[times.astype(str).tolist().index(day)] == 0 for values, times in series.values())
        gaps += int(fine.any())
        for gap in coarse:
            ratio = len(fine) // len(gap)
            blocks = fine.reshape(len(gap), ratio, len(gap), ratio)
            np.testing.assert_array_equal(blocks.any(axis=(1, 3)), gap)
    assert gaps


def test_shares_of_crops_are_those_of_sen4agrinet_and_regions_differ(drawn: dict[str, list[Fields]]) -> None:
    labels = {tile: np.concatenate([fields.truth.ravel() for fields in found]) for tile, found in drawn.items()}
    both = np.concatenate(list(labels.values()))
    crops = both[np.isin(both, list(CROPS))]
    for code, share in CROPS.items():
        # 32 patches of some 60 labelled parcels; over five seeds no share was off by more than 0.018.
        assert abs((crops == code).mean() - share) < 0.04, code
    assert 0.55 < len(crops) / len(both) < 0.75
    assert 0.08 < np.isin(both, list(OTHERS)).mean() < 0.2
    assert set(np.unique(both).tolist()) <= {0, *CROPS, *OTHERS}
    average = {code: np.mean([shares(tile)[code] for tile in TILES]) for code in CROPS}
    for code, share in CROPS.items():
        assert average[code] == pytest.approx(share / sum(CROPS.values()), abs=0.02)
    wheat, barley = ((labels[tile] == code).sum() for tile, code in ((TILES[1], 110), (TILES[1], 150)))
    assert wheat > 2.5 * barley
    assert (labels[TILES[0]] == 150).sum() > 1.1 * (labels[TILES[0]] == 110).sum()


def test_parcels_are_whole_and_some_have_no_label(drawn: dict[str, list[Fields]]) -> None:
    unlabelled, sizes = 0, []
    for fields in drawn[TILES[0]]:
        for parcel in np.unique(fields.parcels[fields.parcels > 0]):
            inside = fields.parcels == parcel
            assert len(np.unique(fields.labels[inside])) == 1
            assert len(np.unique(fields.cells[inside])) == 1
            unlabelled += int(fields.labels[inside][0] == 0)
            sizes.append(int(inside.sum()))
        assert (fields.labels[fields.parcels == 0] == 0).all()
        assert (fields.parcels == 0).mean() < 0.45
    # About a hundred pixels, less where the patch ends.
    assert 60 < np.mean(sizes) < 140
    assert 0.03 < unlabelled / len(sizes) < 0.2


def test_labels_are_wrong_in_training_alone_and_the_truth_is_kept(sample: Path, drawn: dict[str, list[Fields]]) -> None:
    for path in find_patches(sample):
        name = PatchName.of(path)
        truth = true_labels(path)
        assert (truth is None) == (name.x >= VAL_X)
        with open_patch(path) as patch:
            labels, parcels = patch.labels(), patch.parcels()
        # Stream 1 of a patch draws its parcels.
        rng = np.random.default_rng([0, name.year, TILES.index(name.tile), name.x, name.y, 1])
        np.testing.assert_array_equal(
            draw_fields(name.tile, 48, flipped=False, rng=rng).labels, labels if truth is None else truth
        )
        if truth is None:
            continue
        wrong = truth != labels
        assert set(np.unique(truth[wrong]).tolist()) | set(np.unique(labels[wrong]).tolist()) <= set(CROPS)
        np.testing.assert_array_equal(truth == 0, labels == 0)
        for parcel in np.unique(parcels[wrong]):
            assert wrong[parcels == parcel].all()
    crops = {tile: np.isin(np.stack([f.truth for f in found]), list(CROPS)) for tile, found in drawn.items()}
    wrong = {tile: np.stack([f.truth != f.labels for f in found]) for tile, found in drawn.items()}
    share = sum(int(part.sum()) for part in wrong.values()) / sum(int(part.sum()) for part in crops.values())
    assert 0.05 < share < 0.15
    # Errors keep together: shares in windows of 32 pixels differ more than those of as many parcels drawn at random.
    rng = np.random.default_rng(0)
    clustered, scattered = [], []
    for fields in (fields for found in drawn.values() for fields in found):
        bad = fields.truth != fields.labels
        cells = np.unique(fields.cells[np.isin(fields.truth, list(CROPS))])
        drawn_cells = rng.choice(cells, len(np.unique(fields.cells[bad])), replace=False)
        for shares_of, mask in ((clustered, bad), (scattered, np.isin(fields.cells, drawn_cells))):
            shares_of.append(mask.reshape(3, 32, 3, 32).mean(axis=(1, 3)).ravel())
    # Measured 1.32 to 1.58 over five seeds.
    assert np.std(clustered) > 1.15 * np.std(scattered)


def test_what_grows_does_not_depend_on_whether_labels_are_made_wrong() -> None:
    with_errors, without = (
        draw_fields(TILES[0], 60, flipped=flag, rng=np.random.default_rng(5)) for flag in (True, False)
    )
    np.testing.assert_array_equal(with_errors.kinds, without.kinds)
    np.testing.assert_array_equal(with_errors.truth, without.labels)
    assert not np.array_equal(with_errors.labels, without.labels)


def test_crops_are_green_when_their_calendars_say_so_and_years_are_shifted(tmp_path: Path) -> None:
    greens: dict[tuple[int, int], list[np.ndarray]] = {}
    for year in YEARS:
        for number in range(6):
            path = write_patch_of_sample(
                tmp_path, PatchName(year, "31TCG", TEST_X + number % 4, number // 4), size=72, bands=("B04", "B08")
            )
            with open_patch(path) as patch:
                made = patch_composites(patch, CompositeSettings(bands=["B04", "B08"], fill="linear"))
                labels = patch.labels()
            red, infrared = (made.medians[:, place].astype(float) for place in (0, 1))
            index = (infrared - red) / np.maximum(infrared + red, 1)
            for code in np.unique(labels[labels > 0]):
                greens.setdefault((int(code), year), []).append(index[:, labels == code])
    curves = {key: np.median(np.concatenate(parts, axis=1), axis=1) for key, parts in greens.items()}
    april, july, october = 3, 6, 9
    for year in YEARS:
        for winter in (110, 150):
            assert curves[winter, year][april] > curves[winter, year][july] + 0.2
            assert curves[winter, year][april] > curves[120, year][april] + 0.2
        for summer in (120, 510):
            assert curves[summer, year][july] > curves[summer, year][april] + 0.2
            assert curves[summer, year][july] > curves[110, year][july] + 0.2
        assert curves[910, year][october] > curves[110, year][october] + 0.1
    # The second year is nine days ahead: its cereals are riper in June.
    assert CALENDARS[110].fall == 166
    assert curves[110, 2020][5] < curves[110, 2019][5] - 0.05


def test_a_classifier_of_single_pixels_finds_most_but_not_all(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import f1_score

    settings = CompositeSettings()
    features: dict[bool, list[np.ndarray]] = {True: [], False: []}
    targets: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for name in sample_names(2, 0, 1):
        path = write_patch_of_sample(tmp_path, name, size=60, bands=tuple(settings.bands))
        with open_patch(path) as patch:
            stacked = patch_composites(patch, settings).medians.reshape(48, -1).T
            labels = patch.labels().ravel()
        used = np.isin(labels, list(CROPS))
        training = name.x < VAL_X
        features[training].append(stacked[used][::3])
        targets[training].append(labels[used][::3])
    model = RandomForestClassifier(25, min_samples_leaf=5, random_state=0, n_jobs=1)
    model.fit(np.concatenate(features[True]), np.concatenate(targets[True]))
    score = f1_score(np.concatenate(targets[False]), model.predict(np.concatenate(features[False])), average="weighted")
    # Measured 0.64, as eight small patches teach little; the whole sample and 100 trees give 0.77.
    assert 0.58 < score < 0.75


def test_the_sample_fits_its_layout_only_in_whole_pixels(tmp_path: Path) -> None:
    for size in (61, 30):
        with pytest.raises(ValueError, match="multiple of 6"):
            write_sample(tmp_path, size=size)
    with pytest.raises(ValueError, match="at most 40"):
        sample_names(41, 0, 0)
    names = sample_names(8, 4, 3)
    assert len(names) == len(set(names)) == 60
    edges = period_edges(CompositeSettings(), 2019)
    assert composite(np.ones((1, 2, 2), np.uint16), np.array(["2019-01-01"], "datetime64[D]"), edges)[1].sum() == 4
    assert not truth_path(tmp_path / "x.nc").exists()
