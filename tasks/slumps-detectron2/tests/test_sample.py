"""The sample is deterministic, its truth is exact, and its spectra are those that were measured."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from geocore.raster.geotiff import open_raster
from slumps_detectron2.sample import BANDS, IGNORED, Difficulty, SampleScene, sample_scenes, write_sample

SMALL = (160, 176)
EIGHT = np.ones((3, 3), bool)


def scenes(count: int, *, seed: int = 0, shape: tuple[int, int] = SMALL) -> list[SampleScene]:
    return list(sample_scenes(seed=seed, scenes=count, shape=shape))


@pytest.fixture(scope="module")
def standard() -> list[SampleScene]:
    """The sample as it is by default."""
    return scenes(20, shape=(320, 352))


@pytest.fixture(scope="module")
def easy() -> list[SampleScene]:
    return list(sample_scenes(seed=0, scenes=10, shape=(320, 352), difficulty="easy"))


def masks(scene: SampleScene) -> list[npt.NDArray[np.bool_]]:
    """Mask of each slump in the order of the ids."""
    return [scene.ids == number for number in np.unique(scene.ids) if number not in (0, IGNORED)]


def touching(scene: SampleScene) -> list[bool]:
    """Whether each slump shares a border or a corner with another one."""
    slumps = masks(scene)
    others = [ndimage.binary_dilation(slump, EIGHT) & ~slump for slump in slumps]
    known = (scene.ids != 0) & (scene.ids != IGNORED)
    return [bool((ring & known).any()) for ring in others]


def split(scene: SampleScene) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks of slumps and, found by their spectra away from slumps, of water, clouds, other bare ground and tundra."""
    green, red, nir = (scene.values[BANDS.index(name)].astype(float) for name in ("green", "red", "nir"))
    known = (scene.values[0] > 0) & (scene.ids != IGNORED)
    slump = known & (scene.ids > 0)
    rest = known & ~ndimage.binary_dilation(slump, EIGHT, iterations=3)
    cloud = rest & (red > 1500)
    water = rest & ~cloud & (green > 1.2 * nir)
    rest &= ~ndimage.binary_dilation(cloud | water, EIGHT, iterations=2)
    bare = rest & (nir < 1500)
    tundra = rest & ~ndimage.binary_dilation(bare, EIGHT, iterations=2)
    return {"slump": slump, "cloud": cloud, "water": water, "bare": bare, "tundra": tundra}


def spectrum(sample: list[SampleScene], kind: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each band over all pixels of a kind."""
    values = np.concatenate([scene.values[:, split(scene)[kind]] for scene in sample], axis=1)
    return values.mean(axis=1), values.std(axis=1)


def test_files_are_scenes_with_instance_rasters_and_a_table(tmp_path: Path) -> None:
    table = write_sample(tmp_path / "sample", seed=4, scenes=5, shape=SMALL)
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert table == tmp_path / "sample" / "pairs.csv"
    assert [row["region"] for row in rows] == ["region00", "region00", "region01", "region01", "region02"]
    assert len(list(table.parent.iterdir())) == 11
    places = set()
    for row, expected in zip(rows, scenes(5, seed=4), strict=True):
        with open_raster(table.parent / row["image"]) as image, open_raster(table.parent / row["label"]) as label:
            source = image.layers["image"]
            assert source.bands.names == BANDS
            assert (source.dtype, source.bands.bands[0].nodata) == ("uint16", 0)
            assert (label.layers["image"].dtype, label.layers["image"].bands.bands[0].nodata) == ("uint32", IGNORED)
            assert image.grid.same_georeference(label.grid)
            assert image.grid.transform is not None
            places.add((image.grid.crs, image.grid.transform[0], image.grid.transform[2]))
            patch = image.read_layers(image.grid.whole)["image"]
            ids = label.read_layers(label.grid.whole)["image"].values[0]
        np.testing.assert_array_equal(patch.values, expected.values)
        np.testing.assert_array_equal(ids, expected.ids)
        np.testing.assert_array_equal(patch.valid.all(axis=0), expected.values[0] > 0)
    assert {place[:2] for place in places} == {("EPSG:32652", 10.0), ("EPSG:3413", 3.0), ("EPSG:32608", 3.0)}
    assert len(places) == 5  # side by side, never on top of each other


def test_same_seed_same_bytes_and_another_seed_another_scene(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "again", "other")]
    for folder, seed in zip(folders, (7, 7, 8), strict=True):
        write_sample(folder, seed=seed, scenes=3, shape=SMALL)
    first, again, other = ({path.name: path.read_bytes() for path in folder.glob("*.tif")} for folder in folders)
    assert len(first) == 6
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_a_scene_does_not_depend_on_how_many_others_there_are() -> None:
    few, many = scenes(3), scenes(6)
    assert [scene.name for scene in few] == [scene.name for scene in many[:3]]
    np.testing.assert_array_equal(few[2].values, many[2].values)
    assert not np.array_equal(many[2].values, many[3].values)


def test_ids_are_numbered_whole_and_only_missing_ground_is_ignored(standard: list[SampleScene]) -> None:
    cut = 0
    for scene in standard:
        slumps = masks(scene)
        assert np.unique(scene.ids[scene.ids != IGNORED]).tolist() == list(range(len(slumps) + 1))
        for slump in slumps:
            assert ndimage.label(slump, EIGHT)[1] == 1
            assert slump.sum() >= 32
        missing = scene.values[0] == 0
        assert (scene.ids[missing] == IGNORED).all()
        assert ((scene.values == 0) == missing).all()
        # Scraps of slumps at the missing corner are the only other pixels that are ignored.
        assert np.count_nonzero((scene.ids == IGNORED) & ~missing) < 3 * 32
        cut += sum(bool((ndimage.binary_dilation(missing, EIGHT) & slump).any()) for slump in slumps)
    assert 3 <= sum((scene.values == 0).any() for scene in standard) <= 10
    assert cut >= 1


def test_there_are_as_many_slumps_of_the_sizes_promised(standard: list[SampleScene]) -> None:
    counts = [len(masks(scene)) for scene in standard]
    assert counts.count(0) == 3
    assert sum(5 <= count <= 9 for count in counts) >= 15
    widths = np.array(
        [
            max(part.stop - part.start for part in ndimage.find_objects(slump.astype(int))[0])
            for scene in standard
            for slump in masks(scene)
        ]
    )
    assert 9 <= widths.min() <= 15
    assert np.mean((widths >= 10) & (widths <= 65)) > 0.85
    assert (widths > 100).sum() >= 2


def test_more_than_a_third_of_the_slumps_touch_a_neighbour(
    standard: list[SampleScene], easy: list[SampleScene]
) -> None:
    assert np.mean([touch for scene in standard for touch in touching(scene)]) > 0.4
    assert not any(touch for scene in easy for touch in touching(scene))
    for seed in (1, 2):
        other = [touch for scene in scenes(6, seed=seed, shape=(320, 352)) for touch in touching(scene)]
        assert np.mean(other) >= 1 / 3


def test_spectra_are_those_measured_in_the_published_scene(standard: list[SampleScene]) -> None:
    """Means: regions, seasons and shadows move them by up to 5 %. Deviations of single bands: by a third."""
    mean, deviation = spectrum(standard, "slump")
    np.testing.assert_allclose(mean, [953, 756, 630, 1080, 1004, 598], rtol=0.06)
    assert deviation[3] == pytest.approx(305, rel=0.35)
    mean, deviation = spectrum(standard, "tundra")
    np.testing.assert_allclose(mean, [1029, 910, 833, 2338, 2130, 1102], rtol=0.05)
    np.testing.assert_allclose(deviation, [54, 68, 92, 264, 284, 144], rtol=0.35)
    mean, deviation = spectrum(standard, "bare")
    np.testing.assert_allclose(mean, [993, 798, 705, 1175, 1018, 596], rtol=0.06)


def test_tundra_is_as_rough_as_the_measured_one_at_every_scale(standard: list[SampleScene]) -> None:
    bands = {0: (14, 15, 15, 36), 2: (20, 25, 25, 67), 3: (61, 74, 76, 179), 4: (43, 57, 80, 216)}
    squares = {band: np.zeros(4) for band in bands}
    sample = standard[:8]
    for scene in sample:
        tundra = split(scene)["tundra"]
        for band in bands:
            image = scene.values[band].astype(float)
            levels = [image]
            for sigma in (1, 3, 8):
                weight = np.maximum(ndimage.gaussian_filter(tundra.astype(float), sigma), 1e-6)
                levels.append(ndimage.gaussian_filter(image * tundra, sigma) / weight)
            parts = [*(fine - coarse for fine, coarse in zip(levels, levels[1:], strict=False)), levels[-1]]
            squares[band] += [part[tundra].var() for part in parts]
    for band, measured in bands.items():
        np.testing.assert_allclose(np.sqrt(squares[band] / len(sample)), measured, rtol=0.3)


def test_bare_ground_is_no_easier_to_tell_from_slumps_than_measured(standard: list[SampleScene]) -> None:
    slump, spread = spectrum(standard, "slump")
    bare, _ = spectrum(standard, "bare")
    # Measured: at most 1.7 of the slumps' standard deviations (red), and 0.1 to 0.3 in the infrared.
    assert (np.abs(bare - slump) < 1.7 * spread).all()
    assert (np.abs(bare - slump)[3:] < 0.5 * spread[3:]).all()


def test_headwalls_lie_on_one_side_and_are_darker_than_the_floor_in_short_waves(standard: list[SampleScene]) -> None:
    """In shadow or of ice: by a quarter at the median slump, by an eighth where no headwall is drawn (measured)."""
    darkest, brightest = [], []
    for scene in standard:
        image = scene.values[BANDS.index("swir2")].astype(float)
        for slump in masks(scene):
            inner = ndimage.binary_erosion(slump, EIGHT, iterations=5)
            if inner.sum() < 100:
                continue
            rim = ndimage.binary_erosion(slump, EIGHT) & ~ndimage.binary_erosion(slump, EIGHT, iterations=3)
            rows, cols = np.nonzero(rim)
            angles = np.arctan2(rows - np.nonzero(slump)[0].mean(), cols - np.nonzero(slump)[1].mean())
            sectors = ((angles + np.pi) / (2 * np.pi) * 8).astype(int) % 8
            means = [image[rim][sectors == sector].mean() for sector in range(8) if (sectors == sector).sum() >= 5]
            darkest.append(min(means) / image[inner].mean())
            brightest.append(max(means) / image[inner].mean())
    assert len(darkest) > 20
    assert np.median(darkest) < 0.8
    assert np.median(brightest) > 0.95


def test_the_standard_sample_holds_what_is_mistaken_for_slumps(
    standard: list[SampleScene], easy: list[SampleScene]
) -> None:
    kinds = [split(scene) for scene in standard]
    assert sum(kind["water"].sum() > 50 for kind in kinds) >= 18
    assert sum(kind["bare"].sum() > 300 for kind in kinds) >= 14
    assert 3 <= sum(kind["cloud"].sum() > 50 for kind in kinds) <= 14
    for scene in standard:
        assert not (scene.values[BANDS.index("red")][split(scene)["slump"]] > 1500).any()  # no cloud hides a slump
    for scene in easy:
        kind = split(scene)
        assert kind["bare"].sum() < 60
        assert not kind["cloud"].any()
        assert not (scene.ids == IGNORED).any()


def test_easy_slumps_are_the_dark_objects_of_an_evenly_lit_scene(easy: list[SampleScene]) -> None:
    for scene in easy:
        nir = scene.values[BANDS.index("nir")].astype(float)
        kind = split(scene)
        assert (
            abs(nir[:, :176][kind["tundra"][:, :176]].mean() / nir[:, 176:][kind["tundra"][:, 176:]].mean() - 1) < 0.05
        )
        for slump in masks(scene):
            assert nir[slump].mean() < nir[kind["tundra"]].mean() - 5 * nir[kind["tundra"]].std()


@pytest.mark.parametrize(
    ("shape", "count", "difficulty"), [((90, 300), 1, "standard"), (SMALL, 0, "standard"), (SMALL, 1, "hard")]
)
def test_a_sample_that_cannot_be_made_is_refused(shape: tuple[int, int], count: int, difficulty: Difficulty) -> None:
    with pytest.raises(ValueError, match="96 x 96"):
        next(sample_scenes(seed=0, scenes=count, shape=shape, difficulty=difficulty))
