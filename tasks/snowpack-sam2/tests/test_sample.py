"""The sample is deterministic, its truth is exact, and its photos look like those of a snow imager."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geocore.raster.geotiff import open_raster
from snowpack_sam2.layers import boundaries_of
from snowpack_sam2.sample import IGNORE, Difficulty, Photo, sample_photos, write_sample

SHAPE = (192, 224)


def photos(difficulty: Difficulty = "standard", *, seed: int = 0, pits: int = 12, per_pit: int = 1) -> list[Photo]:
    return list(sample_photos(seed=seed, pits=pits, photos_per_pit=per_pit, shape=SHAPE, difficulty=difficulty))


def test_files_are_pairs_in_the_format_of_real_photos(tmp_path: Path) -> None:
    paths = write_sample(tmp_path / "photos", seed=4, pits=2, photos_per_pit=2, shape=SHAPE)
    assert [path.name for path in paths] == ["pit00_00.tif", "pit00_01.tif", "pit01_00.tif", "pit01_01.tif"]
    assert len(list((tmp_path / "photos").iterdir())) == 8
    for path, photo in zip(paths, photos(seed=4, pits=2, per_pit=2), strict=True):
        with open_raster(path) as scene, open_raster(path.with_name(f"{path.stem}_mask.tif")) as mask:
            assert scene.grid.crs is None
            values = scene.read_layers(scene.grid.whole)["image"].values[0]
            labels = mask.read_layers(mask.grid.whole)["image"]
        assert values.dtype == np.uint16
        assert labels.values.dtype == np.uint8
        np.testing.assert_array_equal(values, photo.values)
        np.testing.assert_array_equal(labels.values[0], photo.layers)
        np.testing.assert_array_equal(labels.valid[0], photo.layers != IGNORE)


def test_same_seed_same_bytes_and_another_seed_another_wall(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "again", "other")]
    for folder, seed in zip(folders, (7, 7, 8), strict=True):
        write_sample(folder, seed=seed, pits=1, photos_per_pit=2, shape=SHAPE)
    first, again, other = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_a_pit_does_not_depend_on_how_many_others_there_are() -> None:
    few, many = photos(pits=2, per_pit=1), photos(pits=3, per_pit=2)
    np.testing.assert_array_equal(few[1].values, many[2].values)


def test_photos_of_a_pit_show_the_same_layers_under_another_light() -> None:
    one, other = photos("flat", pits=1, per_pit=2)
    assert one.pit == other.pit == one.name.rsplit("_", 1)[0]
    assert one.layers.max() == other.layers.max()
    assert not np.array_equal(one.layers, other.layers)
    assert not np.array_equal(one.values, other.values)


@pytest.mark.parametrize("difficulty", ["standard", "flat"])
def test_brightness_layers_and_order_are_those_of_a_snow_wall(difficulty: Difficulty) -> None:
    counts = []
    for photo in photos(difficulty):
        wall = photo.layers != IGNORE
        assert photo.values[wall].min() >= 41_000
        assert photo.values[wall].max() <= 65_500
        assert not photo.values[~wall].any()
        assert np.unique(photo.layers[wall]).tolist() == list(range(1, int(photo.layers[wall].max()) + 1))
        below, above = photo.layers[1:].astype(int), photo.layers[:-1].astype(int)
        assert (below >= above)[wall[1:] & wall[:-1]].all()
        counts.append(int(photo.layers[wall].max()))
    assert min(counts) >= 3
    assert 8 <= max(counts) <= 12


def test_neighbouring_layers_differ_by_two_to_eight_percent() -> None:
    for photo in photos("flat"):
        ids = range(1, int(photo.layers.max()) + 1)
        means = np.array([photo.values[photo.layers == layer].mean() for layer in ids]) / 65535
        steps = np.abs(np.diff(means))
        # Light of 0.98-1.02, blurred edges of thin lenses and clipping at the top of the range soften single steps.
        assert steps.max() < 0.085
        assert np.median(steps) > 0.02


def test_flat_walls_are_level_and_evenly_lit() -> None:
    for photo in photos("flat"):
        assert (photo.layers == photo.layers[:, :1]).all()
        largest = photo.layers == np.bincount(photo.layers.ravel()).argmax()
        left, right = (photo.values[:, half][largest[:, half]].mean() for half in (slice(0, 112), slice(112, 224)))
        assert abs(left - right) < 0.01 * 65535


def test_the_standard_sample_holds_what_makes_real_walls_hard() -> None:
    walls = photos(pits=16)
    valid = [photo.layers != IGNORE for photo in walls]
    assert 1 <= sum(not wall.all() for wall in valid) <= 10  # a few rotated photos with black corners
    tops = [(photo.layers == 2).argmax(axis=0) for photo, wall in zip(walls, valid, strict=True) if wall.all()]
    assert np.mean([np.ptp(top) for top in tops]) > 5  # sloping, undulating
    thickness = np.concatenate(
        [
            [(photo.layers == n).sum(axis=0) for n in range(2, photo.layers[photo.layers != IGNORE].max())]
            for photo in walls
            if photo.layers[photo.layers != IGNORE].max() > 2
        ]
    )
    assert (thickness == 0).any(axis=1).sum() > 3  # pinched out in part of the photo
    means = np.array([layer[layer > 0].mean() for layer in thickness if layer.any()])
    assert (means < 6.5).sum() > 3  # ice lenses


def test_seams_change_brightness_without_being_boundaries() -> None:
    seams = 0
    for photo in photos(pits=16):
        if (photo.layers == IGNORE).any():
            continue
        columns = np.median(photo.values.astype(float), axis=0)
        jumps = np.abs(np.diff(columns)) / 65535
        seam = int(jumps.argmax())
        if jumps[seam] > 0.008:
            seams += 1
            assert boundaries_of(photo.layers)[:, seam].mean() < 0.2
    assert seams >= 2


@pytest.mark.parametrize(("shape", "pits"), [((100, 300), 1), ((200, 200), 0)])
def test_a_sample_that_cannot_be_made_is_refused(shape: tuple[int, int], pits: int) -> None:
    with pytest.raises(ValueError, match="160"):
        next(sample_photos(seed=0, pits=pits, photos_per_pit=1, shape=shape))
