from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from geocore.errors import SceneError, SettingsError
from geocore.raster.grid import Grid, Window
from geocore.raster.masks import MaskRule
from geocore.raster.products import (
    find_scenes,
    granule_of,
    granules_in,
    open_scene,
    scene_bands,
    scene_hash,
    scene_name,
)
from geocore.raster.write import write_raster

GRID = Grid(60, 48, (10.0, 0.0, 600000.0, 0.0, -10.0, 5300040.0), "EPSG:32632", length_unit="m")
SIZES = {"B01": 6, "B02": 1, "B03": 1, "B04": 1, "B05": 2, "B8A": 2, "B11": 2, "B12": 2, "SCL": 2}
NEW_METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info><Product_Image_Characteristics>
    <QUANTIFICATION_VALUES_LIST>
      <BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
      <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
    </QUANTIFICATION_VALUES_LIST>
    OFFSETS
  </Product_Image_Characteristics></n1:General_Info>
</n1:Level-2A_User_Product>
"""
OFFSETS = "".join(f'<BOA_ADD_OFFSET band_id="{number}">-1000</BOA_ADD_OFFSET>' for number in range(13))


def numbers(band: str) -> np.ndarray:
    shape = GRID.coarser(SIZES[band]).shape
    seed = sum(map(ord, band))
    if band == "SCL":
        return np.random.default_rng(seed).integers(0, 12, shape).astype("uint8")
    return np.random.default_rng(seed).integers(1, 9000, shape).astype("uint16")


def jp2(path: Path, values: np.ndarray, grid: Grid) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", count=1, height=grid.height, width=grid.width, dtype=values.dtype,
        crs=grid.crs, transform=Affine(*(grid.transform or ())), REVERSIBLE="YES", QUALITY="100", YCBCR420="NO",
    ) as file:  # fmt: skip
        file.write(values[np.newaxis])


def safe_2a(folder: Path, *, shift: int = 0) -> Path:
    """A product of level 2A; with a shift of 1000, of a baseline since 04.00 that shows the same ground."""
    product = folder / "S2B_MSIL2A_20230702T101559_N0509_R065_T32TPT_20230702T131218.SAFE"
    images = product / "GRANULE/L2A_T32TPT_A033012_20230702T101846/IMG_DATA"
    for band, ratio in SIZES.items():
        added = 0 if band == "SCL" else shift
        grid = GRID.coarser(ratio)
        path = images / f"R{ratio * 10}m/T32TPT_20230702T101559_{band}_{ratio * 10}m.jp2"
        jp2(path, (numbers(band) + added).astype(numbers(band).dtype), grid)
    # Bands come at coarser pixels too, and what is no band lies beside them.
    jp2(images / "R60m/T32TPT_20230702T101559_B02_60m.jp2", np.ones((10, 8), "uint16"), GRID.coarser(6))
    jp2(images / "R10m/T32TPT_20230702T101559_AOT_10m.jp2", np.ones((60, 48), "uint16"), GRID)
    offsets = f"<BOA_ADD_OFFSET_VALUES_LIST>{OFFSETS}</BOA_ADD_OFFSET_VALUES_LIST>" if shift else ""
    (product / "MTD_MSIL2A.xml").write_text(NEW_METADATA.replace("OFFSETS", offsets))
    return product


def hls(
    folder: Path, sensor: str = "S30", name: str = "T10TGS.2022285T190401", bands: str = "B02 B03 B04 Fmask"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid(20, 30, (30.0, 0.0, 600000.0, 0.0, -30.0, 4500000.0), "EPSG:32610", length_unit="m")
    for index, band in enumerate(bands.split()):
        values = np.full(grid.shape, 64, "uint8") if band == "Fmask" else np.full(grid.shape, index + 5, "int16")
        if band == "Fmask":
            values[0, :4] = (2, 8, 10, 255)
        else:
            values[5, 5] = -9999
        nodata = 255 if band == "Fmask" else -9999
        write_raster(folder / f"HLS.{sensor}.{name}.v2.0.{band}.tif", values, grid=grid, nodata=nodata)
    return folder


def test_a_safe_folder_is_one_scene_on_its_finest_grid(tmp_path: Path) -> None:
    product = safe_2a(tmp_path, shift=1000)
    assert scene_name(product) == product.stem
    assert scene_bands(product) == ("B01", "B02", "B03", "B04", "B05", "B8A", "B11", "B12", "SCL")
    with closing(open_scene(product, bands=["B02", "B8A", "1"])) as image:
        assert image.grid.same_georeference(GRID)
        assert image.grid.shape == GRID.shape
        assert image.layer.bands.names == ("B02", "B8A", "B01")
        assert [(band.scale, band.offset) for band in image.layer.bands] == [(1e-4, -0.1)] * 3
        assert (image.layer.dtype, {band.nodata for band in image.layer.bands}) == ("uint16", {0})
        patch = image.read(Window(10, 11, 30, 31))
    for values, band in zip(patch.values, ("B02", "B8A", "B01"), strict=True):
        expected = (numbers(band) + 1000).repeat(SIZES[band], 0).repeat(SIZES[band], 1)
        np.testing.assert_array_equal(values, expected[10:40, 11:42])


def test_bands_of_one_size_stay_on_their_own_grid(tmp_path: Path) -> None:
    product = safe_2a(tmp_path)
    with closing(open_scene(product, bands=["B11", "B12"])) as image:
        assert image.grid.shape == (30, 24)
        assert image.layer.bands["B11"].offset == 0
    with closing(open_scene(product)) as image:
        assert "SCL" not in image.layer.bands
        assert image.grid.shape == GRID.shape
    with pytest.raises(SceneError, match=r"has no band 'B99': its bands are B01, .*SCL"):
        open_scene(product, bands=["B99"])


def test_level_1c_has_its_own_names_and_offsets(tmp_path: Path) -> None:
    product = tmp_path / "S2A_MSIL1C_20220701T101611_N0400_R065_T32TPT_20220701T135500.SAFE"
    images = product / "GRANULE/L1C_T32TPT_A036675_20220701T102040/IMG_DATA"
    for band in ("B02", "B8A"):
        jp2(images / f"T32TPT_20220701T101611_{band}.jp2", numbers(band), GRID.coarser(SIZES[band]))
    jp2(images / "T32TPT_20220701T101611_TCI.jp2", np.ones((60, 48), "uint8"), GRID)
    (product / "MTD_MSIL1C.xml").write_text(
        '<a><QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE><Radiometric_Offset_List>'
        '<RADIO_ADD_OFFSET band_id="1">-1000</RADIO_ADD_OFFSET><RADIO_ADD_OFFSET band_id="8">-900</RADIO_ADD_OFFSET>'
        "</Radiometric_Offset_List></a>"
    )
    granule = granule_of(product)
    assert granule is not None
    assert {band: (file.usual.scale, file.usual.offset) for band, file in granule.files.items()} == {
        "B02": (1e-4, -0.1),
        "B8A": (1e-4, -0.09),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no MTD_MSIL1C.xml or MTD_MSIL2A.xml"),
        ("not xml", "does not say what numbers mean"),
        ("<a/>", "no QUANTIFICATION_VALUE"),
        (
            '<a><QUANTIFICATION_VALUE>1</QUANTIFICATION_VALUE><BOA_ADD_OFFSET band_id="99">1</BOA_ADD_OFFSET></a>',
            "does",
        ),
        ("<a><QUANTIFICATION_VALUE>many</QUANTIFICATION_VALUE></a>", "does not say"),
        ("<a><QUANTIFICATION_VALUE>0</QUANTIFICATION_VALUE></a>", "QUANTIFICATION_VALUE 0"),
        ("<a><QUANTIFICATION_VALUE>inf</QUANTIFICATION_VALUE></a>", "QUANTIFICATION_VALUE inf"),
        ("<a><QUANTIFICATION_VALUE>nan</QUANTIFICATION_VALUE></a>", "QUANTIFICATION_VALUE nan"),
        (
            '<a><QUANTIFICATION_VALUE>1</QUANTIFICATION_VALUE><BOA_ADD_OFFSET band_id="-1">1</BOA_ADD_OFFSET></a>',
            "band_id -1",
        ),
        (
            '<a><QUANTIFICATION_VALUE>1</QUANTIFICATION_VALUE><BOA_ADD_OFFSET band_id="1">-1e999</BOA_ADD_OFFSET></a>',
            "offset of B02 -inf",
        ),
        (
            '<!DOCTYPE a [<!ENTITY a "xxxxxxxxxx">'
            + "".join(
                f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True)
            )
            + "]><a>&i;</a>",
            "does not say what numbers mean",
        ),
        ("<a>" * 300_000, "does not say what numbers mean"),
    ],
)
def test_a_safe_folder_without_its_metadata_is_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    product = safe_2a(tmp_path)
    (product / "MTD_MSIL2A.xml").unlink()
    if text is not None:
        (product / "MTD_MSIL2A.xml").write_text(text)
    with pytest.raises(SceneError, match=words) as caught:
        granule_of(product)
    assert "\n" not in str(caught.value)


def test_an_empty_safe_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.SAFE").mkdir()
    (tmp_path / "a.SAFE/MTD_MSIL2A.xml").write_text(NEW_METADATA.replace("OFFSETS", ""))
    with pytest.raises(SceneError, match="no band below GRANULE"):
        granule_of(tmp_path / "a.SAFE")


def test_hls_granules_are_found_in_folders_of_their_own_and_side_by_side(tmp_path: Path) -> None:
    own = hls(tmp_path / "own")
    assert granules_in(own) == [own]
    assert scene_name(own) == "HLS.S30.T10TGS.2022285T190401.v2.0"
    mixed = hls(tmp_path / "mixed", "L30", bands="B02 B05 B10 Fmask")
    hls(mixed, "S30", "T10TGS.2022290T190401")
    (mixed / "notes.txt").touch()
    safe_2a(mixed)
    names = ["HLS.L30.T10TGS.2022285T190401.v2.0", "HLS.S30.T10TGS.2022290T190401.v2.0"]
    found = granules_in(mixed)
    assert [path.name for path in found][:2] == names
    assert found[2].suffix == ".SAFE"
    assert granule_of(mixed) is None
    with closing(open_scene(mixed / names[0])) as image:
        assert {band.name: band.scale for band in image.layer.bands} == {"B02": 1e-4, "B05": 1e-4, "B10": 0.01}
        patch = image.read(Window(0, 0, 20, 30))
    assert patch.valid.sum() == 3 * 20 * 30 - 3
    assert not patch.valid[:, 5, 5].any()


def test_other_paths_are_no_granules(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.ones((9, 9), "uint8"), grid=Grid(9, 9))
    for path in (
        tmp_path,
        tmp_path / "a.tif",
        tmp_path / "missing",
        tmp_path / "no/where",
        "https://example.org/a.SAFE",
    ):
        assert granule_of(path) is None
    assert granules_in(tmp_path) == []


def test_classes_of_a_mask_band_make_pixels_invalid(tmp_path: Path) -> None:
    product = safe_2a(tmp_path)
    with closing(open_scene(product, bands=["B02", "B12"], mask=MaskRule.parse("SCL:3,8,9,10"))) as image:
        patch = image.read(Window(3, 5, 40, 30))
    classes = numbers("SCL").repeat(2, 0).repeat(2, 1)[3:43, 5:35]
    expected = ~np.isin(classes, [0, 3, 8, 9, 10])  # 0 is SCL's nodata value
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(patch.valid, np.broadcast_to(expected, (2, 40, 30)))
    np.testing.assert_array_equal(patch.values[0], numbers("B02")[3:43, 5:35])


def test_bits_of_a_mask_band_make_pixels_invalid(tmp_path: Path) -> None:
    with closing(open_scene(hls(tmp_path), bands=["B02"], mask=MaskRule.parse("Fmask:bit1,bit3"))) as image:
        valid = image.read(Window(0, 0, 2, 6)).valid
    assert valid[0].tolist() == [[False] * 4 + [True] * 2, [True] * 6]


def test_a_mask_band_may_lie_in_the_same_file(tmp_path: Path) -> None:
    values = np.ones((2, 9, 9), "uint16")
    values[1, 4] = 7
    write_raster(tmp_path / "a.tif", values, grid=Grid(9, 9), band_names=["red", "QA"])
    with closing(open_scene(tmp_path / "a.tif", bands=["red"], mask=MaskRule("QA", values=(7,)))) as image:
        valid = image.read(Window(0, 0, 9, 9)).valid
    assert valid.shape == (1, 9, 9)
    assert (~valid).sum() == 9
    with pytest.raises(SceneError, match="has no band 'SCL'"):
        open_scene(tmp_path / "a.tif", bands=["red"], mask=MaskRule("SCL", values=(7,)))


def test_fractions_are_no_mask(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.ones((2, 9, 9), "float32"), grid=Grid(9, 9))
    with pytest.raises(SceneError, match="mask band 2 is float32: classes and bits are whole numbers"):
        open_scene(tmp_path / "a.tif", bands=["1"], mask=MaskRule("2", values=(7,)))


@pytest.mark.parametrize("text", ["SCL", "SCL:", ":3", "SCL:3,,4", "SCL:cloud", "Fmask:bit", "Fmask:bit32", "SCL:-1"])
def test_a_mask_that_is_not_understood_is_one_line(text: str) -> None:
    with pytest.raises(SettingsError, match="mask") as caught:
        MaskRule.parse(text)
    assert "\n" not in str(caught.value)


def test_a_mask_rule_takes_values_and_bits_together() -> None:
    rule = MaskRule.parse("QA_PIXEL: 1, bit3,bit15 ")
    assert rule == MaskRule("QA_PIXEL", (1,), (3, 15))
    assert rule.marks(np.array([0, 1, 2, 8, 9, 32768], "uint16")).tolist() == [False, True, False, True, True, True]


def test_the_hash_of_a_scene_follows_its_content(tmp_path: Path) -> None:
    product = safe_2a(tmp_path)
    first = scene_hash(product)
    assert scene_hash(product) == first
    metadata = product / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text().replace("10000", "20000"))
    second = scene_hash(product)
    path = next(product.rglob("*_B05_20m.jp2"))
    jp2(path, numbers("B05") + 1, GRID.coarser(2))
    assert len({first, second, scene_hash(product)}) == 3
    assert scene_hash("https://example.org/a.tif?token=1") == scene_hash("https://example.org/a.tif?token=2")


def test_a_list_names_the_file_of_each_band(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 99, (2, 60, 48)).astype("uint8")
    write_raster(tmp_path / "image.tif", values, grid=GRID, band_names=["B3", "B4"])
    fine = Grid(600, 480, (1.0, 0.0, 600000.0, 0.0, -1.0, 5300040.0), "EPSG:32632", length_unit="m")
    write_raster(tmp_path / "dem.tif", np.full((600, 480), 5.0, "float32"), grid=fine)
    write_raster(tmp_path / "clouds.tif", np.eye(60, 48, dtype="uint8"), grid=GRID)
    path = tmp_path / "place.yaml"
    text = "bands:\n  red: {file: image.tif, band: B4, scale: 0.5}\n  height: dem.tif\n"
    path.write_text(text + "  clouds: {file: clouds.tif, interpolation: nearest}\nreference: red\n")
    assert find_scenes([path], extensions=()) == {"place": path}
    with closing(open_scene(path, mask=MaskRule("clouds", values=(1,)))) as image:
        assert image.grid == GRID
        assert [(band.name, band.scale) for band in image.layer.bands] == [("red", 0.5), ("height", 1.0)]
        patch = image.read(GRID.whole)
    np.testing.assert_array_equal(patch.values, [values[1], np.full((60, 48), 5)])
    np.testing.assert_array_equal(patch.valid, np.broadcast_to(np.eye(60, 48) == 0, (2, 60, 48)))
    first = scene_hash(path)
    write_raster(tmp_path / "dem.tif", np.full((600, 480), 6.0, "float32"), grid=fine)
    assert scene_hash(path) != first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not understood"),
        ("bands: [a.tif]", "is not understood"),
        ("bands: {}", "no band"),
        ("bands: {red: {band: B4}}", "'file'"),
        ("bands: {red: {file: a.tif, gain: 2}}", "unknown key 'gain'"),
        ("bands: {red: {file: a.tif, scale: 0}}", "the scale not 0"),
        ("bands: {red: {file: a.tif, scale: much}}", "much"),
        ("bands: {red: {file: a.tif, interpolation: cubic}}", "must be bilinear or nearest"),
        ("bands: {red: a.tif}\nname: x", "unknown key 'name'"),
        ("bands: {red: a.tif}\nreference: blue", "must be one of the bands red"),
        ("bands: {red: a.tif}\nreference: []", "must be one of the bands red"),
        ("bands: {red: !!python/object/apply:os.getcwd []}", "is not understood"),
        ("bands: {red: a.tif", "is not understood"),
    ],
)
def test_a_list_that_is_not_understood_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(SceneError, match=words) as caught:
        granule_of(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_granule_beside_another_scene_does_not_hide_it(tmp_path: Path) -> None:
    folder = hls(tmp_path)
    write_raster(folder / "other.tif", np.ones((9, 9), "uint8"), grid=Grid(9, 9))
    name = "HLS.S30.T10TGS.2022285T190401.v2.0"
    assert find_scenes([folder], extensions=(".tif",)) == {name: folder / name, "other": folder / "other.tif"}


def test_a_granule_that_lacks_something_is_a_scene_that_fails_by_itself(tmp_path: Path) -> None:
    product = tmp_path / "S2A_MSIL2A_A.SAFE"
    product.mkdir()
    (tmp_path / "list.yaml").write_text("bands: 3\n")
    (tmp_path / "other.tif").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.tif")
    found = {"S2A_MSIL2A_A": product, "other": tmp_path / "other.tif", "pipe": tmp_path / "pipe.tif"}
    assert find_scenes([tmp_path], extensions=(".tif",)) == found
    alone = {"S2A_MSIL2A_A": product, "list": tmp_path / "list.yaml", "pipe": tmp_path / "pipe.tif"}
    assert find_scenes(list(alone.values()), extensions=(".tif",)) == alone
    for name, path in alone.items():
        assert scene_name(path) == name
        with pytest.raises(SceneError, match="MTD_MSIL1C|is not understood|is a named pipe"):
            open_scene(path)
