"""Pairing, masks, splits and tiles of photographs."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geocore.errors import DataError
from geocore.raster.geotiff import RasterReader
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import Patch
from geocore.raster.write import write_raster
from geocore.settings import SamplingSettings
from geocore.tiling.samplers import PatchIndex, RandomWindowSampler, window_sampler
from snowpack_sam2.config import PrepareSettings
from snowpack_sam2.data import (
    MASK,
    NOT_INDEPENDENT,
    PHOTO,
    Photos,
    describe,
    find_photos,
    load_dataset,
    open_photo,
)


def _write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = Grid(height=values.shape[-2], width=values.shape[-1])
    write_raster(path, values, grid=grid, nodata=None, cog=False)


def _photo(seed: int, shape: tuple[int, int] = (48, 40)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(41343, 65471, shape, dtype=np.uint16)


def _ids(shape: tuple[int, int] = (48, 40)) -> np.ndarray:
    ids = np.full(shape, 7, np.uint8)
    ids[20:] = 3
    ids[:, :4] = 255
    return ids


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Six photographs of three pits, nothing but the file names tells which."""
    for number in range(6):
        _write(tmp_path / "raw" / f"pit{number // 2}_{number}.tif", _photo(number))
        _write(tmp_path / "raw" / f"pit{number // 2}_{number}_mask.tif", _ids())
    return tmp_path / "raw"


def _settings(raw: Path, **changes: object) -> PrepareSettings:
    return PrepareSettings(**{"data": raw, "out": raw.parent / "dataset", "pit": "^(.+)_"} | changes)


def test_pits_are_never_torn_apart(raw: Path) -> None:
    dataset = describe(_settings(raw))
    by_pit = {sample.group: {s.split for s in dataset.samples if s.group == sample.group} for sample in dataset.samples}
    assert set(by_pit) == {"pit0", "pit1", "pit2"}
    assert all(len(splits) == 1 for splits in by_pit.values())
    assert {split for splits in by_pit.values() for split in splits} == {"train", "val", "test"}
    assert dataset.leaks() == []
    assert list(dataset.notes) == []


def test_unknown_pits_are_said(raw: Path) -> None:
    assert list(describe(_settings(raw, pit=None)).notes) == [NOT_INDEPENDENT]


def test_statistics_are_those_of_labelled_training_pixels(raw: Path) -> None:
    dataset = describe(_settings(raw))
    pixels = np.concatenate(
        [
            open_photo(dataset.path(sample.inputs[PHOTO])).read_layers(Window(0, 4, 48, 36))[PHOTO].values.ravel()
            for sample in dataset.split("train")
        ]
    ).astype(np.float64)
    assert dataset.statistics is not None
    band = dataset.statistics.layers[PHOTO][0]
    assert (band.count, band.minimum, band.maximum) == (pixels.size, pixels.min(), pixels.max())
    assert band.mean == pytest.approx(pixels.mean(), rel=1e-12)
    assert band.std == pytest.approx(pixels.std(), rel=1e-9)


def test_photographs_stay_where_they_are_and_keep_their_bytes(raw: Path) -> None:
    before = {path: path.read_bytes() for path in raw.iterdir()}
    describe(_settings(raw)).save(raw.parent / "dataset")
    assert {path: path.read_bytes() for path in raw.iterdir()} == before


def test_data_set_whose_files_have_changed_is_refused(raw: Path) -> None:
    folder = raw.parent / "dataset"
    dataset = describe(_settings(raw))
    dataset.save(folder)
    assert load_dataset(folder).hash == dataset.hash
    _write(raw / "pit0_0_mask.tif", np.roll(_ids(), 1, axis=0))
    with pytest.raises(DataError, match=r"pit0_0_mask\.tif.*prepare the data again"):
        load_dataset(folder)


def test_data_set_of_another_task_is_refused(raw: Path) -> None:
    path = describe(_settings(raw)).save()
    path.write_text(path.read_text().partition("\n")[2].replace("task: snowpack", "task: floods"))
    with pytest.raises(DataError, match="is a data set of 'floods': give one made by snowpack-prepare"):
        load_dataset(path.parent)


def test_leaks_were_told_and_do_not_refuse_a_data_set(raw: Path) -> None:
    dataset = describe(_settings(raw))
    torn = dataclasses.replace(dataset, samples=[dataclasses.replace(s, group="one pit") for s in dataset.samples])
    assert torn.leaks()
    assert load_dataset(torn.save().parent).hash == torn.hash


def test_separate_folders_and_suffixes_are_paired(tmp_path: Path) -> None:
    for number in range(3):
        _write(tmp_path / "raw/images" / f"wall{number}_nir.tif", _photo(number))
        _write(tmp_path / "raw/masks" / f"wall{number}_mask.tif", _ids())
    dataset = describe(_settings(tmp_path / "raw", pit=None, image_suffix="_nir"))
    assert [sample.id for sample in dataset.samples] == ["wall0", "wall1", "wall2"]
    assert all(Path(sample.labels[MASK]).stem == f"{sample.id}_mask" for sample in dataset.samples)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("mask without photo", "pit9_0_mask"),
        ("photo without mask", "pit9_0.tif"),
        ("size", "match pixel by pixel"),
        ("float mask", r"holds 0.5, and 1 such pixels"),
        ("coloured mask", r"3 bands of uint8: a mask has one band of whole numbers"),
        ("all ignored", "every pixel is 255"),
        ("bands", "save all as grey, or all in colour"),
        ("pattern", "finds no group"),
        ("too few pits", "pits|groups"),
    ],
)
def test_data_that_do_not_fit_are_refused(raw: Path, damage: str, message: str) -> None:
    settings = _settings(raw)
    match damage:
        case "mask without photo":
            _write(raw / "pit9_0_mask.tif", _ids())
        case "photo without mask":
            _write(raw / "pit9_0.tif", _photo(9))
        case "size":
            _write(raw / "pit0_0_mask.tif", _ids((48, 41)))
        case "float mask":
            _write(
                raw / "pit0_0_mask.tif", np.where(np.eye(48, 40) * np.arange(40) == 30, 0.5, _ids()).astype(np.float32)
            )
        case "coloured mask":
            _write(raw / "pit0_0_mask.tif", np.stack([_ids()] * 3))
        case "all ignored":
            _write(raw / "pit0_0_mask.tif", np.full((48, 40), 255, np.uint8))
        case "bands":
            _write(raw / "pit0_1.tif", np.stack([_photo(1)] * 3))
        case "pattern":
            settings = _settings(raw, pit="^(?:x)$")
        case "too few pits":
            settings = _settings(raw, pit="^(pit)")
    with pytest.raises(DataError, match=message) as refused:
        describe(settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photographs_fit_masks_drawn_on_what_viewers_show(tmp_path: Path, orientation: int) -> None:
    upright = np.where(_ids() == 3, 60, 200).astype(np.uint8)
    turns = Image.Transpose
    undo = [
        None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM,
        turns.TRANSPOSE, turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270,
    ][orientation - 1]  # fmt: skip
    stored, exif = Image.fromarray(upright), Image.Exif()
    exif[274] = orientation
    for number in range(3):
        _write(tmp_path / f"raw/pit{number}__mask.tif", _ids())
        (stored if undo is None else stored.transpose(undo)).save(
            tmp_path / f"raw/pit{number}_.png", exif=exif.tobytes()
        )
    photos = Photos(describe(_settings(tmp_path / "raw")), "train")
    assert photos.shapes == [(48, 40)]
    (values,), (lines,), _ = photos.arrays()
    np.testing.assert_array_equal(values, upright)
    # Where the layers of the mask meet the brightness changes.
    assert set(np.argwhere(lines)[:, 0]) == {19}
    assert (values[19] != values[20])[4:].all()


def test_item_holds_native_values_and_ignored_pixels(raw: Path) -> None:
    photos = Photos(describe(_settings(raw)), "train")
    draw = PatchIndex(sample=0, window=Window(16, 0, 32, 32), epoch=2, index=5)
    item = photos.read(draw)
    values, target = item["inputs"][PHOTO]["values"], item["targets"]["boundary"]
    assert values.dtype == np.uint16
    assert np.array_equal(values, photos.scene(0).read_layers(draw.window)[PHOTO].values)
    assert (target[0, :, :4] == 255).all()
    assert (target[0, 3, 4:] == 1).all()  # row 19 of the photo, the last one of the upper layer
    assert target[0, :, 4:].sum() == 28
    assert item["keys"].tolist() == [2, 5]


def test_tiles_are_bit_equal_with_a_cache(raw: Path, tmp_path: Path) -> None:
    dataset = describe(_settings(raw, nodata=int(_photo(0)[3, 3])))
    plain = Photos(dataset, "train")
    draws = [
        *RandomWindowSampler(plain.shapes, 32, 20, seed=0).epoch(0),
        *(PatchIndex(index, Window(40, 30, 32, 32), 0, 0) for index in range(len(plain.samples))),
    ]
    for _ in range(2):  # filled, then found
        cached = Photos(dataset, "train", cache=tmp_path / "cache")
        assert cached.shapes == plain.shapes
        with ThreadPoolExecutor(4) as pool:
            for draw, other in zip(draws, pool.map(cached.read, draws), strict=True):
                one = plain.read(draw)
                pairs = [
                    *((one["inputs"][PHOTO][name], other["inputs"][PHOTO][name]) for name in ("values", "valid")),
                    (one["targets"]["boundary"], other["targets"]["boundary"]),
                ]
                assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize("kind", ["grid", "chunked"])
def test_tiles_are_bit_equal_however_they_are_sampled(raw: Path, tmp_path: Path, kind: str) -> None:
    dataset = describe(_settings(raw))
    plain, settings = Photos(dataset, "train"), SamplingSettings.model_validate({"kind": kind})
    epochs = []
    for folder in (None, tmp_path / "cache"):
        photos = Photos(dataset, "train", cache=folder)
        sampler = window_sampler(
            settings, photos.shapes, 16, 12, seed=0, batch_size=2, stored=partial(photos.scene, stored=True)
        )
        epochs.append(sampler.epoch(0))
        assert all((draw.chunk is None) == (kind == "grid") for draw in epochs[-1])
        for draw in epochs[-1]:
            one, other = plain.read(dataclasses.replace(draw, chunk=None)), photos.read(draw)
            for name in ("values", "valid"):
                assert one["inputs"][PHOTO][name].tobytes() == other["inputs"][PHOTO][name].tobytes()
            assert one["targets"]["boundary"].tobytes() == other["targets"]["boundary"].tobytes()
    assert epochs[0] == epochs[1], "the cache decides nothing"


def test_photograph_and_mask_of_a_chunk_are_decoded_once(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = Photos(describe(_settings(raw)), "train")
    sampler = window_sampler(
        SamplingSettings(kind="chunked"), photos.shapes, 16, 40, seed=0, batch_size=2,
        stored=partial(photos.scene, stored=True),
    )  # fmt: skip
    decoded, read = [], RasterReader.decode

    def noted(self: RasterReader, window: Window, into: Patch) -> None:
        decoded.append((self.path, window))
        read(self, window, into)

    monkeypatch.setattr(RasterReader, "decode", noted)
    draws = sampler.epoch(0)
    for draw in draws:
        photos.read(draw)
    assert len(decoded) == len(set(decoded)) == 2 * len({(draw.sample, draw.chunk) for draw in draws}) < 2 * 40


def test_a_changed_photograph_is_not_served_from_a_cache(raw: Path, tmp_path: Path) -> None:
    draw = PatchIndex(0, Window(0, 0, 32, 32), 0, 0)
    Photos(describe(_settings(raw)), "train", cache=tmp_path / "cache").read(draw)
    for number in range(6):
        _write(raw / f"pit{number // 2}_{number}.tif", _photo(number + 50))
        _write(raw / f"pit{number // 2}_{number}_mask.tif", np.roll(_ids(), 3, axis=0))
    dataset = describe(_settings(raw))
    one, other = (Photos(dataset, "train", cache=folder).read(draw) for folder in (None, tmp_path / "cache"))
    assert np.array_equal(one["inputs"][PHOTO]["values"], other["inputs"][PHOTO]["values"])
    assert np.array_equal(one["targets"]["boundary"], other["targets"]["boundary"])


def test_tile_beyond_the_photo_is_neither_valid_nor_labelled(raw: Path) -> None:
    photos = Photos(describe(_settings(raw)), "train")
    item = photos.read(PatchIndex(sample=0, window=Window(40, 30, 32, 32), epoch=0, index=0))
    assert not item["inputs"][PHOTO]["valid"][:, 8:].any()
    assert (item["targets"]["boundary"][0, 8:] == 255).all()
    assert (item["targets"]["boundary"][0, :, 10:] == 255).all()


def test_nodata_brightness_is_remembered(raw: Path) -> None:
    dark = _photo(0)
    dark[:5] = 0
    _write(raw / "pit0_0.tif", dark)
    dataset = describe(_settings(raw, nodata=0))
    with open_photo(raw / "pit0_0.tif", layer=dataset.layers[PHOTO]) as scene:
        assert not scene.read_layers(Window(0, 0, 5, 40))[PHOTO].valid.any()
        assert scene.read_layers(Window(5, 0, 43, 40))[PHOTO].valid.all()


def test_masks_in_a_folder_are_no_photographs(raw: Path, tmp_path: Path) -> None:
    assert [path.name for path in find_photos([raw])] == [f"pit{number // 2}_{number}.tif" for number in range(6)]
    with pytest.raises(DataError, match="not found"):
        find_photos([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photograph"):
        find_photos([tmp_path / "empty"])


def test_photographs_of_one_name_would_overwrite_each_other(raw: Path, tmp_path: Path) -> None:
    _write(tmp_path / "other" / "pit0_0.tif", _photo(0))
    with pytest.raises(DataError, match="share a name"):
        find_photos([raw, tmp_path / "other"])


def test_what_a_mask_calls_nodata_makes_no_boundary(raw: Path) -> None:
    for number in range(6):
        ids = _ids().astype(np.int16)
        ids[40:] = -1
        path = raw / f"pit{number // 2}_{number}_mask.tif"
        write_raster(path, ids[np.newaxis], grid=Grid(*ids.shape), nodata=-1, cog=False)
    dataset = describe(_settings(raw))
    assert list(dataset.notes) == [
        "6 of 6 masks call 1920 pixels nodata (-1): these count for nothing: pit0_0_mask.tif, pit0_1_mask.tif, "
        "pit1_2_mask.tif, pit1_3_mask.tif, pit2_4_mask.tif and 1 more"
    ]
    photos = Photos(dataset, "train")
    lines, labelled = photos.truth(0)
    assert np.flatnonzero(lines.any(axis=1)).tolist() == [19] and lines.sum() == 36
    assert labelled[:40, 4:].all() and not labelled[40:].any() and not labelled[:, :4].any()
    assert dataset.statistics is not None
    assert dataset.statistics.layers[PHOTO][0].count == len(photos.samples) * 40 * 36


def test_masks_of_one_layer_are_counted_and_refused_where_all_are(raw: Path) -> None:
    flat = np.full((48, 40), 7, np.uint8)
    flat[:, :4] = 255
    _write(raw / "pit1_2_mask.tif", flat)
    assert list(describe(_settings(raw)).notes) == ["1 of 6 masks hold one value only: pit1_2_mask.tif"]
    for number in range(6):
        _write(raw / f"pit{number // 2}_{number}_mask.tif", flat + (flat < 255) * np.uint8(number))
    with pytest.raises(DataError, match=r"all 6 masks hold one value: pit0_0_mask.tif \(7\), pit0_1_mask.tif \(8\)"):
        describe(_settings(raw))


@pytest.mark.parametrize(
    ("sin", "message"),
    [
        ("jpeg", r"pit0_0_mask.jpg: JPEG changes values"),
        ("interpolated", r"pit0_0_mask.tif: \d\d of its \d\d values, such as \d+, \d+, .* scattered pixels"),
        ("swapped", r"pit0_0_mask.tif: is a photograph \(\d+ values\), and .*pit0_0.tif holds few values.*are swapped"),
        ("photograph", r"pit0_0_mask.tif: is a photograph, or a mask that was interpolated"),
        ("image", r"pit0_0_mask.tif: holds the same pixels as .*pit0_0.tif"),
    ],
)
def test_what_is_no_mask_is_refused_by_name(raw: Path, sin: str, message: str) -> None:
    mask, photo = raw / "pit0_0_mask.tif", raw / "pit0_0.tif"
    match sin:
        case "jpeg":
            mask.unlink()
            Image.fromarray(_ids()).save(mask.with_suffix(".jpg"), quality=95)
        case "interpolated":
            turned = Image.fromarray(_ids()).rotate(5, Image.Resampling.BILINEAR, fillcolor=255)
            _write(mask, np.array(turned))
        case "swapped":
            _write(mask, _photo(0))
            _write(photo, _ids().astype(np.uint16))
        case "photograph":
            _write(mask, _photo(1))
        case "image":
            _write(mask, _photo(0))
    with pytest.raises(DataError, match=message) as refused:
        describe(_settings(raw))
    assert "\n" not in str(refused.value)


@pytest.mark.real
@pytest.mark.skipif("GEOCORE_DATA" not in os.environ, reason="GEOCORE_DATA is not set")
def test_published_tiles_are_paired_and_called_not_independent(tmp_path: Path) -> None:
    pairs = Path(os.environ["GEOCORE_DATA"]) / "snowpack" / "pairs"
    dataset = describe(PrepareSettings(data=pairs, out=tmp_path, image_suffix="_nir", nodata=0))
    assert len(dataset.samples) == 14
    assert list(dataset.notes) == [
        "14 photographs: 0 is missing (command line), numbers as stored",
        "1 of 14 masks hold one value only: batch_1_12_mask.png",
        NOT_INDEPENDENT,
    ]
    photos = Photos(dataset, "train")
    for index in range(len(photos.samples)):
        lines, labelled = photos.truth(index)
        valid = photos.scene(index).read_layers(photos.scene(index).grid.whole)[PHOTO].valid[0]
        assert lines.shape == (849, 850)
        # The black corners of turned tiles are neither wall nor labelled.
        assert not (labelled & ~valid).mean() > 0.001
        assert lines.mean() < 0.02


def test_photographs_of_two_types_are_refused(raw: Path) -> None:
    _write(raw / "pit1_3.tif", (_photo(3) // 257).astype(np.uint8))
    with pytest.raises(DataError, match=r"^pit1_3.tif: uint8, but pit0_0.tif is uint16, and neither says"):
        describe(_settings(raw))


def test_copies_and_crops_stay_with_their_photograph(raw: Path) -> None:
    """A copy as JPEG, and a crop of 64 x 64 pixels, called as if they were of pits of their own."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(60, 200, (12, 16), np.uint8)
    grain = rng.integers(0, 12, (192, 256), np.uint8)
    photo = coarse.repeat(16, axis=0).repeat(16, axis=1) + grain
    for path in raw.iterdir():
        path.unlink()
    for number in range(5):
        _write(raw / f"pit{number}_0.tif", photo if number == 0 else rng.integers(0, 255, photo.shape, np.uint8))
    Image.fromarray(photo).save(raw / "copy_0.jpg", quality=60)
    _write(raw / "crop_0.tif", photo[30:110, 50:140])
    for path in list(raw.iterdir()):
        with open_photo(path) as scene:
            _write(
                raw / f"{path.stem}_mask.tif", np.ascontiguousarray(np.indices(scene.grid.shape)[0] // 20 + 1, np.uint8)
            )
    dataset = describe(_settings(raw))
    split_of = {sample.id: sample.split for sample in dataset.samples}
    assert split_of["copy_0"] == split_of["crop_0"] == split_of["pit0_0"]
    assert "copy, crop, pit0 show the same pixels: they stay in one split" in dataset.notes
    told = describe(_settings(raw, split={"allow_leaks": True}))
    assert {sample.group for sample in told.samples} == {"copy", "crop", *(f"pit{number}" for number in range(5))}
    assert any(note.startswith("leak: ") for note in told.notes)
