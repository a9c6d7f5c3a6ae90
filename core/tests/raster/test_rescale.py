from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geocore.errors import SceneError
from geocore.raster.bands import Band, Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.rescale import match_scale
from geocore.raster.scene import ArrayReader, Layer, Patch, ReadIntoReader, TiledReader

GRID = Grid(20, 30)
DN = np.random.default_rng(0).integers(0, 60000, (2, 20, 30)).astype("uint16")


def bands(scale: float = 1.0, offset: float = 0.0, unit: str | None = None) -> Bands:
    return Bands((Band("red", unit, scale, offset, nodata=0), Band("nir", unit, scale, offset, nodata=0)))


def read(values: np.ndarray, held: Bands, wanted: Bands, **options: Any) -> tuple[Any, Layer]:
    source = ArrayReader(Layer("image", held, values.dtype.name), values)
    layer = Layer("image", wanted, "uint16")
    result = match_scale(source, layer, GRID, "scene", **options)
    return result.read(Window(2, 3, 10, 20)), result.layer


def test_numbers_that_mean_the_same_stay_as_they_are() -> None:
    for held in (bands(1e-4), bands(), bands(1e-4, unit="1")):
        patch, layer = read(DN, held, bands(1e-4))
        assert layer.dtype == "uint16"
        assert layer.bands == bands(1e-4)
        np.testing.assert_array_equal(patch.values, DN[:, 2:12, 3:23])
    patch, layer = read(DN, bands(1e-4), bands())
    assert (layer.dtype, layer.bands) == ("uint16", bands())


def test_what_only_changes_its_names_is_decoded_as_its_source_is() -> None:
    class Decoding(ArrayReader):
        block = (8, 8)

        def decode(self, window: Window, into: Patch) -> None:
            into.values[...] = self.read(window).values

    layer = Layer("image", bands(1e-4), "uint16")
    for held, passed in ((bands(), True), (bands(1e-4, -0.1), False)):
        source = Decoding(Layer("image", held, "uint16"), DN)
        found = match_scale(source, layer, GRID, "scene")
        assert isinstance(found, ReadIntoReader) == passed
        assert isinstance(found, TiledReader)


def test_another_offset_gives_exactly_the_numbers_without_one() -> None:
    patch, layer = read((DN + 1000).astype("uint16"), bands(1e-4, -0.1), bands(1e-4))
    assert layer.dtype == "float32"
    np.testing.assert_array_equal(patch.values, DN[:, 2:12, 3:23].astype("float32"))
    assert patch.valid.all()


def test_the_other_way_round_is_as_exact() -> None:
    patch, _ = read(DN, bands(1e-4), bands(1e-4, -0.1))
    np.testing.assert_array_equal(patch.values, DN[:, 2:12, 3:23].astype("float32") + 1000)
    np.testing.assert_array_equal(patch.valid, DN[:, 2:12, 3:23] != 0)


def test_every_band_has_its_own_conversion() -> None:
    held = Bands((Band("red", None, 2e-4, 0.0, nodata=0), Band("nir", None, 1e-4, 0.5, nodata=0)))
    patch, _ = read(DN, held, bands(1e-4))
    np.testing.assert_allclose(patch.values[0], DN[0, 2:12, 3:23] * 2.0, rtol=1e-6)
    np.testing.assert_allclose(patch.values[1], DN[1, 2:12, 3:23] + 5000.0, rtol=1e-6)


def test_scale_and_offset_of_the_user_take_the_place_of_the_scenes() -> None:
    shifted = (DN + 1000).astype("uint16")
    expected = DN[:, 2:12, 3:23].astype("float32")
    for held in (bands(), bands(1e-4), bands(5.0, 3.0)):
        patch, _ = read(shifted, held, bands(1e-4), scale=1e-4, offset=-0.1)
        np.testing.assert_array_equal(patch.values, expected)
    # What says nothing has the scale of the data set.
    patch, _ = read(shifted, bands(), bands(1e-4), offset=-0.1)
    np.testing.assert_array_equal(patch.values, expected)
    # Where the data set says nothing, its numbers count as physical.
    for held in (bands(), bands(1e-4, -0.1)):
        patch, _ = read(shifted, held, bands(), scale=1.0, offset=-1000.0)
        np.testing.assert_array_equal(patch.values, expected)


def test_an_offset_that_the_training_data_cannot_explain_is_refused() -> None:
    with pytest.raises(SceneError, match=r"scale 0.0001 and offset -0.1, .* such as --scale 1 --offset -1000 "):
        read(DN, bands(1e-4, -0.1), bands())


def test_units_that_differ_are_refused() -> None:
    with pytest.raises(SceneError, match=r"in 'dB', those of the training data in '1'"):
        read(DN, bands(1e-4, unit="dB"), bands(1e-4, unit="1"))
    read(DN, bands(1e-4, unit="dB"), bands(1e-4, unit="1"), scale=1e-4)
