"""What numbers mean and which are missing: every reader with every kind of declaration, by value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from rasterio.crs import CRS

from geocore.errors import DataError, SceneError
from geocore.raster.bands import Band, Bands
from geocore.raster.declarations import (
    COMMAND_LINE,
    NOTHING,
    Declaration,
    Readings,
    decide,
    stated,
    stated_by_cf,
    valid_codes,
)
from geocore.raster.grid import Grid, Window
from geocore.raster.masks import MaskRule
from geocore.raster.netcdf import NetcdfReader
from geocore.raster.products import open_scene
from geocore.raster.rescale import match_scale, physical
from geocore.raster.scene import BandReader, Layer, resolved_bands

ROWS, COLS = 12, 14
WHOLE = Window(0, 0, ROWS, COLS)
PLACE = {"crs": "EPSG:32633", "transform": Affine(30, 0, 5e5, 0, -30, 6e6), "height": ROWS, "width": COLS}
NAMES = ("red", "nir")

# Whole numbers of 1/10000: every way of writing them below is exact in float32.
DN = np.random.default_rng(0).integers(100, 6000, (2, ROWS, COLS))
MISSING = np.zeros((2, ROWS, COLS), bool)
MISSING[0, 0, :3], MISSING[1, 5:7, 2] = True, True


def tiff(
    path: Path, values: np.ndarray, nodata: float | None = None, names: tuple[str, ...] = NAMES, **tags: Any
) -> Path:
    with rasterio.open(path, "w", count=len(values), dtype=values.dtype, nodata=nodata, **PLACE) as file:
        file.write(values)
        file.descriptions = names
        for tag, value in tags.items():
            setattr(file, tag, (value,) * len(values))
    return path


def stored(hole: float, dtype: str = "int16", add: int = 0) -> np.ndarray:
    values = (DN + add).astype(dtype)
    values[MISSING] = hole
    return values


def plain_tiff(folder: Path) -> Path:
    return tiff(folder / "a.tif", stored(0), 0, scales=1e-4)


def hls_like_tiff(folder: Path) -> Path:
    return tiff(folder / "a.tif", stored(-9999), -9999, scales=1e-4, offsets=0.0, units="1")


def shifted_tiff(folder: Path) -> Path:
    return tiff(folder / "a.tif", stored(0, "uint16", 1000), 0, scales=1e-4, offsets=-0.1)


def tiff_of_shorts_to_the_end(folder: Path) -> Path:
    return tiff(folder / "a.tif", stored(65535, "uint16"), 65535, scales=1e-4)


def masked_tiff(folder: Path) -> Path:
    path = tiff(folder / "a.tif", stored(7), None, scales=1e-4)
    with rasterio.open(path, "r+") as file:
        file.write_mask(~MISSING.any(0))
    return path


def transparent_tiff(folder: Path) -> Path:
    seen = np.where(MISSING.any(0), 0, 65535)[np.newaxis].astype("uint16")
    path = tiff(folder / "a.tif", np.concatenate([stored(0, "uint16"), seen]), None, (*NAMES, "alpha"), scales=1e-4)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*file.colorinterp[:2], rasterio.enums.ColorInterp.alpha]
    return path


def infinite_tiff(folder: Path) -> Path:
    return tiff(folder / "a.tif", stored(-math.inf, "float32"), -math.inf, scales=1e-4)


def nan_tiff(folder: Path) -> Path:
    return tiff(folder / "a.tif", stored(math.nan, "float32"), None, scales=1e-4)


def percent_tiff(folder: Path) -> Path:
    return tiff(folder / "a.tif", stored(-9999), -9999, scales=1e-2, units="%")


def mosaic(folder: Path) -> Path:
    """A VRT whose bands have nodata values, scales and offsets of their own."""
    bands = []
    for number, (hole, add) in enumerate(((0, 0), (-9999, 1000))):
        values = stored(hole, add=add)[number : number + 1]
        tiff(folder / f"{number}.tif", values, hole, NAMES[number : number + 1])
        bands.append(
            f'<VRTRasterBand dataType="Int16" band="{number + 1}"><Description>{NAMES[number]}</Description>'
            f"<NoDataValue>{hole}</NoDataValue><Scale>0.0001</Scale><Offset>{-add / 1e4}</Offset><SimpleSource>"
            f'<SourceFilename relativeToVRT="1">{number}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
            "</VRTRasterBand>"
        )
    a, b, c, d, e, f = PLACE["transform"][:6]  # type: ignore[index]
    (folder / "a.vrt").write_text(
        f'<VRTDataset rasterXSize="{COLS}" rasterYSize="{ROWS}"><SRS>{CRS.from_epsg(32633).to_wkt()}</SRS>'
        f"<GeoTransform>{c}, {a}, {b}, {f}, {d}, {e}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    return folder / "a.vrt"


def listed(folder: Path) -> Path:
    """A list whose files say something, another thing, or nothing."""
    tiff(folder / "red.tif", stored(0, "uint16", 1000)[:1], 0, ("x",), scales=1e-4, offsets=-0.1)
    tiff(folder / "nir.tif", stored(-1)[1:], None, ("y",))
    entries = {"red": "red.tif", "nir": {"file": "nir.tif", "scale": 1e-4, "nodata": -1}}
    (folder / "a.yaml").write_text(yaml.safe_dump({"bands": entries}, sort_keys=False))
    return folder / "a.yaml"


def contradicted_list(folder: Path) -> Path:
    """A list counts before the files that it names."""
    tiff(folder / "red.tif", stored(-5)[:1], 0, ("x",), scales=7.0, offsets=3.0)
    tiff(folder / "nir.tif", stored(-5)[1:], 0, ("y",), scales=7.0, offsets=3.0)
    told = {"scale": 1e-4, "offset": 0, "nodata": -5}
    entries = {name: {"file": f"{name}.tif", **told} for name in NAMES}
    (folder / "a.yaml").write_text(yaml.safe_dump({"bands": entries}, sort_keys=False))
    return folder / "a.yaml"


def granule(folder: Path) -> Path:
    """HLS whose files say nothing: the format does."""
    name = "HLS.S30.T33UUU.2022285T190401.v2.0"
    for band, values in zip(("B04", "B8A"), stored(-9999), strict=True):
        tiff(folder / f"{name}.{band}.tif", values[np.newaxis], None, ("z",))
    return folder / name


def reprocessed_granule(folder: Path) -> Path:
    """HLS whose files say otherwise than the format."""
    name = "HLS.S30.T33UUU.2022285T190401.v2.0"
    for band, values in zip(("B04", "B8A"), stored(0, "uint16", 1000), strict=True):
        tiff(folder / f"{name}.{band}.tif", values[np.newaxis], 0, ("z",), scales=1e-4, offsets=-0.1)
    return folder / name


WAYS: Mapping[str, Callable[[Path], Path]] = {
    "file, zero": plain_tiff,
    "file, fill": hls_like_tiff,
    "file, offset": shifted_tiff,
    "file, end of the type": tiff_of_shorts_to_the_end,
    "file, infinity": infinite_tiff,
    "file, NaN": nan_tiff,
    "file, percent": percent_tiff,
    "mask": masked_tiff,
    "transparency": transparent_tiff,
    "VRT, band by band": mosaic,
    "list, file by file": listed,
    "list against files": contradicted_list,
    "HLS, format": granule,
    "HLS, files": reprocessed_granule,
}
TRAINED = Layer("image", Bands(tuple(Band(name, "1", 1e-4, nodata=0) for name in NAMES)), "uint16")
"""Of a data set whose files all hold reflectance x 10000, 0 where missing."""
ONE_MASK = ("mask", "transparency")


@contextmanager
def opened(path: Path, way: str = "", **options: Any) -> Iterator[BandReader]:
    """As a network trained on `TRAINED` gets it."""
    bands = ("B04", "B8A") if way.startswith("HLS") else NAMES
    usual = [Declaration.of(band, "training data") for band in TRAINED.bands]
    with closing(open_scene(path, bands=bands, usual=usual, **options)) as source:
        yield match_scale(source, TRAINED, source.grid, path.name)


@pytest.mark.parametrize("way", WAYS)
def test_one_scene_in_all_its_dresses_is_one_scene(tmp_path: Path, way: str) -> None:
    with opened(WAYS[way](tmp_path), way) as source:
        patch = source.read(WHOLE)
    missing = np.broadcast_to(MISSING.any(0), MISSING.shape) if way in ONE_MASK else MISSING
    np.testing.assert_array_equal(np.broadcast_to(patch.valid, MISSING.shape), ~missing)
    np.testing.assert_array_equal(patch.values[~missing], DN[~missing].astype(patch.values.dtype))
    assert source.layer.bands.names == NAMES


def test_what_nobody_says_is_what_the_training_data_say(tmp_path: Path) -> None:
    with opened(tiff(tmp_path / "a.tif", stored(0))) as source:
        patch = source.read(WHOLE)
        decided = resolved_bands(source)
    np.testing.assert_array_equal(patch.valid, ~MISSING)
    np.testing.assert_array_equal(patch.values[~MISSING], DN[~MISSING])
    assert {(item.nodata_by, item.numbers_by, item.dtype) for item in decided} == {
        ("training data", "training data", "int16")
    }


def test_the_command_line_counts_before_the_file(tmp_path: Path) -> None:
    values = stored(-5)
    path = tiff(tmp_path / "a.tif", values, 0, scales=3.0)
    given = Declaration(-5, 1e-4, 0.0, by=COMMAND_LINE)
    with opened(path, given=given) as source:
        patch = source.read(WHOLE)
    np.testing.assert_array_equal(patch.valid, ~MISSING)
    np.testing.assert_array_equal(patch.values[~MISSING], DN[~MISSING])
    # What it does not mention is left to the file.
    with closing(open_scene(path, given=Declaration(offset=0.5, by=COMMAND_LINE))) as source:
        assert [(band.nodata, band.scale, band.offset) for band in source.layer.bands] == [(0, 3.0, 0.5)] * 2


def test_a_mask_of_the_file_leaves_the_data_set_no_say_in_what_is_missing(tmp_path: Path) -> None:
    values = DN.astype("uint16")
    values[0, 2, 2] = 0  # dark and seen
    path = tiff(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as file:
        file.write_mask(~MISSING.any(0))
    with opened(path) as source:
        assert source.read(WHOLE).valid[0, 2, 2]
        assert {item.nodata_by for item in resolved_bands(source)} == {"file's mask"}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("Fmask:bit1,bit3", [2, 8]),  # 0 sets no bit
        ("Fmask:2", [2]),  # of a file of several bands
    ],
)
def test_the_clear_value_of_a_mask_band_is_no_missing_one(tmp_path: Path, rule: str, expected: list[int]) -> None:
    flags = np.zeros((1, ROWS, COLS), np.int16)
    flags[0, 4], flags[0, 6] = 2, 8
    stack = np.concatenate([stored(0), flags])
    path = tiff(tmp_path / "a.tif", stack, 0, (*NAMES, "Fmask"))
    with opened(path, mask=MaskRule.parse(rule)) as source:
        valid = source.read(WHOLE).valid
    np.testing.assert_array_equal(valid, ~MISSING & ~np.isin(flags, expected))


def test_a_mask_file_keeps_a_nodata_value_of_its_own(tmp_path: Path) -> None:
    name = "HLS.S30.T33UUU.2022285T190401.v2.0"
    flags = np.zeros((1, ROWS, COLS), np.uint8)
    flags[0, 4], flags[0, 6] = 2, 255
    for band, values in zip(("B04", "B8A"), stored(-9999), strict=True):
        tiff(tmp_path / f"{name}.{band}.tif", values[np.newaxis], None, ("z",))
    tiff(tmp_path / f"{name}.Fmask.tif", flags, None, ("z",))
    with opened(tmp_path / name, "HLS", mask=MaskRule.parse("Fmask:bit1")) as source:
        valid = source.read(WHOLE).valid
    np.testing.assert_array_equal(valid, ~MISSING & (flags == 0))


def test_a_warped_file_keeps_the_nodata_value_of_each_band(tmp_path: Path) -> None:
    """Moved by half a pixel, so that both bands have to be resampled."""
    mosaic(tmp_path)
    with rasterio.open(tmp_path / "reference.tif", "w", count=1, dtype="uint8",
                       **{**PLACE, "transform": Affine(30, 0, 5e5 + 15, 0, -30, 6e6)}) as file:  # fmt: skip
        file.write(np.ones((1, ROWS, COLS), np.uint8))
    entries: dict[str, Any] = {name: {"file": "a.vrt", "band": name} for name in NAMES}
    content = {"reference": "grid", "bands": {**entries, "grid": "reference.tif"}}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with opened(tmp_path / "b.yaml") as source:
        patch = source.read(Window(0, 0, ROWS, COLS - 1))
    # Halfway between two columns: the mean of both, or of the one that is there.
    numbers, there = np.where(MISSING, 0.0, DN), ~MISSING
    count = there[..., :-1].astype(int) + there[..., 1:]
    expected = (numbers[..., :-1] + numbers[..., 1:]) / np.maximum(count, 1)
    np.testing.assert_array_equal(patch.valid, count > 0)
    # Bilinear weights are rounded, and so are whole numbers.
    np.testing.assert_allclose(patch.values[count > 0], expected[count > 0], atol=1.0)


# --- netCDF ---


def netcdf(folder: Path, values: np.ndarray, **attributes: Any) -> NetcdfReader:
    with h5netcdf.File(folder / "a.nc", "w") as file:
        file.dimensions = {"y": ROWS, "x": COLS}
        for name, plane in zip(NAMES, values, strict=True):
            variable = file.create_variable(name, ("y", "x"), data=plane)
            for key, value in attributes.items():
                variable.attrs[key] = value
    return NetcdfReader(folder / "a.nc", NAMES, layer="image")


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        (stored(-9999), {"_FillValue": np.int16(-9999), "scale_factor": 1e-4}),
        (stored(-9999), {"missing_value": np.int16(-9999), "scale_factor": 1e-4, "add_offset": 0.0}),
        (stored(-9999), {"missing_value": np.array([-1, -9999], np.int16), "scale_factor": 1e-4}),
        (stored(-9999), {"_FillValue": np.int16(-1), "missing_value": np.int16(-9999), "scale_factor": 1e-4}),
        (stored(0, "uint16", 1000), {"_FillValue": np.uint16(0), "scale_factor": 1e-4, "add_offset": -0.1}),
        (stored(9000), {"valid_range": np.array([0, 8000], np.int16), "scale_factor": 1e-4}),
        (stored(-3), {"valid_min": np.int16(0), "scale_factor": 1e-4}),
        (stored(-32767), {"scale_factor": 1e-4}),  # what netCDF fills up with
        (np.where(MISSING, np.nan, DN * 1e-4).astype("float32"), {}),
        (np.where(MISSING, -9999.9, DN * 1e-4).astype("float32"), {"_FillValue": np.float32(-9999.9)}),
        (np.where(MISSING, 9.96921e36, DN * 1e-4).astype("float32"), {}),
    ],
)  # fmt: skip
def test_netcdf_is_read_as_its_attributes_say(tmp_path: Path, values: np.ndarray, attributes: dict[str, Any]) -> None:
    with closing(netcdf(tmp_path, values, **attributes)) as source:
        patch = physical(source, Grid(ROWS, COLS)).read(WHOLE)
        np.testing.assert_array_equal(patch.valid, ~MISSING)
        # One rounding of float32 for the product.
        np.testing.assert_allclose(patch.values[~MISSING], (DN * 1e-4)[~MISSING], rtol=2e-7)


def test_physical_numbers_stay_as_they_are(tmp_path: Path) -> None:
    with closing(netcdf(tmp_path, DN.astype("float32"), units="dB")) as source:
        assert physical(source, Grid(ROWS, COLS)) is source
        assert source.layer.bands["red"].unit == "dB"


@pytest.mark.parametrize("attributes", [
    {"_FillValue": np.array([], np.int16)}, {"scale_factor": "none"}, {"scale_factor": 0.0}, {"scale_factor": np.nan},
    {"valid_range": np.array([3], np.int16)}, {"units": "counts"},
])  # fmt: skip
def test_attributes_that_say_nothing_are_none(attributes: dict[str, Any]) -> None:
    declared = stated_by_cf(attributes, np.dtype("uint8"))
    assert (declared.said, declared.missing) == (NOTHING, ())
    assert declared.valid(np.array([0, 255], np.uint8)).all()


# --- the rule itself ---


def test_each_property_is_decided_by_the_first_who_says_something() -> None:
    line, file, usual = (
        Declaration(None, 2.0, by=COMMAND_LINE),
        Declaration(-1),
        Declaration(0, 1e-4, 0.5, "1", "format"),
    )
    resolution = decide("a", line, file, usual)
    assert resolution.band == Band("a", "1", 2.0, 0.5, nodata=-1)
    assert (resolution.nodata_by, resolution.numbers_by) == ("file", "command line and format")
    assert decide("a", NOTHING, NOTHING).band == Band("a")
    assert decide("a", NOTHING, Declaration(), usual, masked=True).band.nodata is None


@pytest.mark.parametrize(("scale", "offset", "unit"), [(0.0, 0.0, None), (math.nan, 0.0, "DN"), (1.0, math.inf, "")])
def test_numbers_that_cannot_be_meant_say_nothing(scale: float, offset: float, unit: str | None) -> None:
    assert stated(7, scale, offset, unit) == Declaration(7)


def test_ways_in_which_files_were_read_are_told_once() -> None:
    readings = Readings()
    for number in range(5):
        file = Declaration(-9999, 1e-4, -0.1, "1") if number == 3 else Declaration(0)
        bands = [decide(name, NOTHING, file, Declaration(scale=1e-4, offset=0.0, by="format x")) for name in NAMES]
        readings.add(f"{number}.tif", bands, ["a note"])
    assert readings.lines("chips") == [
        "4 chips: 0 is missing (file), numbers x 0.0001 (format x)",
        "3.tif: -9999 is missing (file), numbers x 0.0001 - 0.1 in '1' (file)",
        "a note",
    ]


def test_remarks_that_say_the_same_of_many_files_are_told_once() -> None:
    readings = Readings()
    for number in range(6):
        readings.add(f"{number}.tif", [], [f"{number}.tif: band 4 is alpha with {number + 100} values"])
    readings.add("x.tif", [], ["x.tif: was turned"])
    assert readings.lines("scenes") == [
        "0.tif: band 4 is alpha with 100 values (and likewise 5 more scenes)",
        "x.tif: was turned",
    ]


def test_bands_that_differ_are_told_apart(tmp_path: Path) -> None:
    readings = Readings()
    with closing(open_scene(mosaic(tmp_path))) as source:
        readings.add("a.vrt", resolved_bands(source))
    assert readings.lines() == [
        "a.vrt: red: 0 is missing (file), numbers x 0.0001 (file); "
        "nir: -9999 is missing (file), numbers x 0.0001 - 0.1 (file)"
    ]


def test_files_of_which_nobody_says_anything_are_not_told() -> None:
    readings = Readings()
    readings.add("a.png", [decide("1", NOTHING)])
    assert readings.lines() == []


def test_labels_are_whole_numbers_of_64_bits() -> None:
    codes, valid = valid_codes(np.array([3.0, np.nan, -1.0, 9.0]), {"_FillValue": 9.0})
    assert codes.tolist() == [3, 0, 0, 0] and valid.tolist() == [True, False, False, False]
    # Beyond 64 bits they were the lowest number there is, in silence.
    for label, said in ((1.5, "1.5"), (1e300, "1e+300")):
        with pytest.raises(DataError, match=f"holds {re.escape(said)}: labels are whole numbers"):
            valid_codes(np.array([1.0, label]), {})


def test_units_of_another_quantity_are_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", stored(0), 0, scales=1e-4, units="dB")
    with pytest.raises(SceneError, match="in 'dB', those of the training data in '1'"), opened(path):
        pass
