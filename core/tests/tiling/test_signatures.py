"""Copies and crops, known again by their pixels."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geocore.raster.bands import Bands
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.tiling import overlaps
from geocore.tiling.overlaps import Signature, alike, signature_of


def noise(shape: tuple[int, int], seed: int = 0, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).normal(1000, 60, shape).astype(dtype)


def signed(
    values: np.ndarray, window: Window | None = None, valid: np.ndarray | None = None, **options: int
) -> Signature:
    layer = Layer("image", Bands.named("1"), values.dtype.name)
    scene = Scene("a", Grid(*values.shape), {"image": ArrayReader(layer, values, valid)})
    return signature_of(scene, "image", window or scene.grid.whole, **options)


def pairs(*values: np.ndarray) -> list[tuple[int, int]]:
    return sorted(alike([signed(each) for each in values]))


def test_crops_are_known_by_what_they_hold() -> None:
    image = noise((700, 900))
    crops = [image[r : r + 64, c : c + 64] for r, c in ((0, 0), (3, 801), (401, 333), (636, 836), (500, 490))]
    others = [noise((300, 300), seed) for seed in range(1, 5)]
    assert pairs(image, *crops, *others) == [(0, index) for index in range(1, 6)]
    # In another type, and of two parts of one image that overlap.
    assert pairs(image[:400], image[330:].astype(np.float32), image[500:].astype(np.int32)) == [(0, 1), (1, 2)]
    # What only touches shares nothing.
    assert pairs(image[:350], image[350:]) == []


def test_missing_pixels_and_filled_parts_are_no_likeness() -> None:
    first, second = noise((200, 200)), noise((200, 200), 1)
    first[:150] = second[:150] = 65535
    assert pairs(first, second) == []
    # Stripes of a filling, and two images of one value.
    first, second = noise((200, 200)), noise((200, 200), 1)
    first[:60] = second[:60] = np.arange(200) % 2
    assert pairs(first, second, np.zeros((90, 90), np.uint8), np.zeros((90, 90), np.uint8)) == []
    # The values under invalid pixels differ, and those around them are the same.
    valid = np.ones((200, 200), bool)
    valid[50:60] = False
    other = noise((200, 200))
    image = other.copy()
    other[50:60] = 0
    assert list(alike([signed(image, valid=valid), signed(other, valid=valid)])) == [(0, 1)]


def test_copies_with_loss_of_another_size_or_scale_are_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12), np.uint8))
    photo = coarse.resize((960, 720), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "lossless.png")
    photo.save(tmp_path / "lossy.jpg", quality=30)
    photo.resize((480, 360), Image.Resampling.BILINEAR).save(tmp_path / "half.png")
    Image.fromarray(np.asarray(photo)[:, :700]).save(tmp_path / "narrow.png")
    other = Image.fromarray(rng.integers(0, 255, (9, 12), np.uint8))
    other.resize((960, 720), Image.Resampling.BICUBIC).save(tmp_path / "other.png")
    found = []
    for name in ("lossless.png", "lossy.jpg", "half.png", "other.png"):
        with open_raster(tmp_path / name) as scene:
            found.append(signature_of(scene, "image", scene.grid.whole))
    for turned in (np.asarray(photo)[:, ::-1], np.asarray(photo)[::-1], np.rot90(photo), np.asarray(photo).T):
        assert sorted(alike([found[0], signed(np.ascontiguousarray(turned))])) == [(0, 1)]
    brighter = signed(3.5 * np.asarray(photo, np.float32) + 7)
    assert sorted(alike([*found, brighter])) == [(0, 1), (0, 2), (0, 4), (1, 2), (1, 4), (2, 4)]


def test_large_samples_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlaps, "_EDGE_PX", 64)
    monkeypatch.setattr(overlaps, "_MOST_PX", 16 * 64**2)
    image = noise((1000, 1100))
    found = signed(image)
    assert found.thumbnail is None
    # 16 of 288 squares, in four rows of them: 49 x 49 positions each, of which one in 256 is a mark.
    assert 90 < len(found.marks) < 220
    # A part with one of the squares in it.
    assert sorted(alike([found, signed(image[100:300, 100:300])])) == [(0, 1)]
    assert len(signed(image, samples=10**9).marks) <= 30
    whole = signed(image[:256, :256])
    assert whole.thumbnail is not None
    assert whole.shape == (256, 256)


def test_a_window_counts_alone() -> None:
    image = noise((300, 300))
    assert signed(image, Window(10, 20, 100, 90)).marks.tolist() == signed(image[10:110, 20:110]).marks.tolist()
    for shape in ((10, 10), (16, 16), (1, 300)):
        assert len(signed(image, Window(0, 0, *shape)).marks) <= 1


def test_marks_shared_by_many_cost_little() -> None:
    image = noise((256, 256))
    every = [signed(image)] * 300
    tracemalloc.start()
    found = list(alike(every))
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert {(index, index + 1) for index in range(299)} <= set(found)
