"""A raster, a virtual raster and a list of bands reach for nothing but what they may name."""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import closing
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy as rasterio_copy
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

from geocore.errors import SceneError, SettingsError
from geocore.raster.gdal import open_dataset
from geocore.raster.geotiff import open_raster
from geocore.raster.mosaic import write_mosaics
from geocore.raster.paths import check_named
from geocore.raster.products import granule_of, open_scene, scene_hash
from geocore.storage.files import sha256_file

SIDE = 64
SECRET, OWN = 77, 1


def write(path: Path, value: int = OWN, *, driver: str = "GTiff", left: float = 5e5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": driver, "count": 1, "height": SIDE, "width": SIDE, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": from_origin(left, 6e6, 10, 10)} if driver == "GTiff" else {}
    with rasterio.open(path, "w", **profile, **place) as file:
        file.write(np.full((1, SIDE, SIDE), value, np.uint8))
    return path


def values(path: Path) -> list[int]:
    with open_raster(path) as scene:
        return np.unique(scene.read_layers(scene.grid.whole)["image"].values).tolist()


def refusal(path) -> str:
    """The one line in which a raster is refused, the path left out."""
    with pytest.raises(SceneError) as caught:
        open_raster(path).close()
    text = str(caught.value)
    assert "\n" not in text
    return text.replace(str(path), "FILE")


def vrt(inside: str, *, root: str = "", band: str = "") -> str:
    return (
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"{root}>'
        f'<VRTRasterBand dataType="Byte" band="1"{band}>{inside}</VRTRasterBand></VRTDataset>'
    )


def source(name: str | Path, *, relative: int = 0) -> str:
    named = f'<SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>'
    return f"<SimpleSource>{named}<SourceBand>1</SourceBand></SimpleSource>"


@pytest.fixture
def secret(tmp_path) -> Path:
    return write(tmp_path / "home" / "secret.tif", SECRET)


@pytest.fixture
def given(tmp_path, secret) -> Path:
    """A folder that somebody sent."""
    write(tmp_path / "given" / "own.tif")
    return tmp_path / "given"


# A text under the name of a picture


@pytest.mark.parametrize("name", ["scene.tif", "scene.png", "scene.TIFF", "scene.jpg"])
def test_a_virtual_raster_under_another_name_reads_no_other_file(given, secret, name):
    (given / name).write_text(vrt(source(secret)))
    assert refusal(given / name) == (
        "FILE: is a virtual raster (VRT), which names other files: such a file is read under a name that ends in .vrt; "
        "rename it if you trust it"
    )


def test_a_virtual_raster_behind_the_first_bytes_of_a_picture_is_none(given, secret):
    text = vrt(source(secret)).encode()
    (given / "a.jpg").write_bytes(b"\xff\xd8\xff\xfe" + len(text).to_bytes(2, "big") + text + b"\xff\xd9")
    assert "cannot be opened as a raster" in refusal(given / "a.jpg") or "VRT" in refusal(given / "a.jpg")
    # Where GDAL would be free to take it for what it likes.
    (given / "b.vrt").write_text(vrt(source("a.jpg", relative=1)))
    assert "is a virtual raster (VRT), which names other files: its name must end in .vrt" in refusal(given / "b.vrt")


TEXTS = {
    "WMS": "<GDAL_WMS><Service name='TMS'><ServerUrl>{at}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service><DataWindow>"
    "<UpperLeftX>0</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>0</LowerRightY>"
    "<TileLevel>1</TileLevel></DataWindow><BlockSizeX>64</BlockSizeX><BlockSizeY>64</BlockSizeY></GDAL_WMS>",
    "WMTS": "<GDAL_WMTS><GetCapabilitiesUrl>{at}/wmts.xml</GetCapabilitiesUrl></GDAL_WMTS>",
    "WCS": "<WCS_GDAL><ServiceURL>{at}/wcs?</ServiceURL><CoverageName>a</CoverageName></WCS_GDAL>",
    "VRT": vrt(source("/vsicurl/{at}/a.tif")),
    "STAC": '{{"type": "FeatureCollection", "stac_version": "1.0.0", "features": [{{"type": "Feature", "assets": '
    '{{"a": {{"href": "{at}/a.tif"}}}}}}]}}',
    "GDALG": '{{"type": "gdal_streamed_alg", "command_line": "gdal raster convert {at}/a.tif"}}',
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.vrt"])
def test_no_text_leads_to_an_address(given, server, kind, name):
    at, asked = server
    (given / name).write_text(TEXTS[kind].format(at=at))
    refusal(given / name)
    assert not asked


def test_what_another_file_is_is_told(given):
    for text, kind in (
        ("<GDAL_WMS>", "the address of a map service (WMS), which is not read"),
        ("DatasetHeader Begin", "an ERS header, which names another file, which is not read"),
        ("<html>", "a text of XML or HTML, which is not read"),
    ):
        (given / "a.tif").write_text(text)
        assert f"FILE: is {kind}: if you trust it, convert it: gdal_translate IN OUT.tif" == refusal(given / "a.tif")
    (given / "a.tif").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert "is netCDF-4 or HDF5, which is not read" in refusal(given / "a.tif")


@pytest.mark.parametrize("name", ["GTIFF_DIR:1:%s", "vrt:/%s", "zip:%s"])
def test_a_file_may_be_called_as_one_of_gdals_own_names(given, secret, name, monkeypatch):
    monkeypatch.chdir(given)
    path = Path(name % secret.name)
    path.parent.mkdir(exist_ok=True)
    shutil.copy("own.tif", path)
    shutil.copy(secret, given)
    assert values(path) == [OWN]


# What lies beside a raster, or in it


def test_overviews_are_not_taken_from_another_file(given, secret, server):
    at, asked = server
    for kind, place in (("file", secret), ("address", f"/vsicurl/{at}/a.tif"), ("text", vrt(source(secret)))):
        path = write(given / f"{kind}.tif")
        with rasterio.open(path, "r+") as file:
            file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(place))
        assert "takes its overviews from another file" in refusal(path)
        (given / "a.vrt").write_text(vrt(source(path)))
        assert "takes its overviews from another file" in refusal(given / "a.vrt")
    assert not asked


@pytest.mark.parametrize("ending", [".msk", ".ovr", ".MSK", ".Ovr", ".ovr.msk"])
def test_masks_and_overviews_beside_a_raster_hold_their_own_pixels(given, secret, server, ending):
    at, asked = server
    beside = given / f"own.tif{ending}"
    for text in (vrt(source(secret)), TEXTS["WMS"].format(at=at)):
        beside.write_text(text)
        assert re.search(
            rf"is read with own.tif{ending}, which lies beside it and is (a virt|the addr)", refusal(given / "own.tif")
        )
    write(beside)
    with rasterio.open(beside, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(secret))
    assert "takes its overviews from another file" in refusal(given / "own.tif")
    write(beside)
    assert values(given / "own.tif") == [OWN]
    assert not asked


def test_masks_overviews_and_metadata_beside_a_raster_are_read(given):
    path = given / "own.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False, TIFF_USE_OVR=True), rasterio.open(path, "r+") as file:
        mask = np.full((SIDE, SIDE), 255, np.uint8)
        mask[0] = 0
        file.write_mask(mask)
        file.build_overviews([2])
    assert {"own.tif.msk", "own.tif.ovr"} <= set(os.listdir(given))
    with open_raster(path) as scene:
        valid = scene.read_layers(scene.grid.whole)["image"].valid
    assert not valid[:, 0].any() and valid[:, 1:].all()


def test_what_is_put_beside_a_raster_later_is_seen(given, secret):
    assert values(given / "own.tif") == [OWN]
    (given / "own.tif.msk").write_text(vrt(source(secret)))
    assert "own.tif.msk" in refusal(given / "own.tif")


def test_in_a_large_folder_too(given, secret):
    for number in range(1001):
        (given / f"{number}.txt").touch()
    assert values(given / "own.tif") == [OWN]
    (given / "own.tif.msk").write_text(vrt(source(secret)))
    assert "own.tif.msk" in refusal(given / "own.tif")


@pytest.mark.parametrize("kind", ["beside", "shifts", "virtual"])
def test_a_crs_names_no_files(given, kind):
    """PROJ would open them, and wait for ever for a pipe or a terminal."""
    path, crs = given / "own.tif", "+proj=utm +zone=33 +ellps=GRS80 +nadgrids=/dev/stdin +units=m +no_defs"
    wkt = (
        rasterio.CRS.from_epsg(32633)
        .to_wkt()
        .replace('AUTHORITY["EPSG","6326"]', 'EXTENSION["PROJ4_GRIDS","/dev/stdin"]')
    )
    assert "/dev/stdin" in wkt
    if kind == "virtual":
        path = given / "a.vrt"
        path.write_text(
            vrt(source("own.tif", relative=1)).replace("<VRTRasterBand", f"<SRS>{wkt}</SRS><VRTRasterBand", 1)
        )
        assert "a virtual raster with the CRS" in refusal(path)
        return
    with rasterio.open(path, "w", driver="PNG", count=1, height=SIDE, width=SIDE, dtype="uint8") as file:
        file.write(np.ones((1, SIDE, SIDE), np.uint8))
    text = wkt if kind == "beside" else rasterio.CRS.from_string(crs).to_wkt()
    (given / "own.tif.aux.xml").write_text(f"<PAMDataset><SRS>{escape(text)}</SRS></PAMDataset>")
    assert re.search(r"FILE: its CRS.* names files of shifts by their path, which are not followed", refusal(path))


@pytest.mark.parametrize("driver", ["GTiff", "JP2OpenJPEG", "ENVI", "AAIGrid"])
def test_the_crs_of_no_format_names_files(given, driver):
    path, crs = given / "a.tif", "+proj=utm +zone=33 +ellps=GRS80 +nadgrids=/dev/none +units=m +no_defs"
    profile = {"driver": driver, "count": 1, "height": SIDE, "width": SIDE, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, crs=crs, transform=from_origin(5e5, 6e6, 10, 10)) as file:
        file.write(np.ones((1, SIDE, SIDE), np.uint8))
    assert "names files of shifts by their path" in refusal(path)


# Virtual rasters that the user gave


def test_a_virtual_raster_reads_what_lies_in_its_folder(given, monkeypatch):
    write(given / "tiles" / "b.tif", 2)
    (given / "tiles" / "inner.vrt").write_text(vrt(source("../own.tif", relative=1)))
    for name in ("own.tif", "tiles/../own.tif", "tiles/inner.vrt", "GTIFF_DIR:1:own.tif"):
        (given / "a.vrt").write_text(vrt(source(name, relative=1)))
        assert values(given / "a.vrt") == [OWN]
    (given / "a.vrt").write_text(vrt(source(given / "tiles" / "b.tif")))
    assert values(given / "a.vrt") == [2]
    monkeypatch.chdir(given.parent)
    assert values(Path("given/a.vrt")) == [2]
    (given / "a.vrt").write_text(vrt(source("given/own.tif")))  # relative to where the program runs
    assert values(Path("given/a.vrt")) == [OWN]


@pytest.mark.parametrize(
    "place", ["{secret}", "../home/secret.tif", "tiles/../../home/secret.tif", "link.tif", "links/secret.tif"]
)
def test_it_reads_nothing_elsewhere_but_below_a_stated_root(given, secret, place, monkeypatch):
    (given / "tiles").mkdir()
    os.symlink(secret, given / "link.tif")
    os.symlink(secret.parent, given / "links")
    path = given / "a.vrt"
    path.write_text(vrt(source(place.format(secret=secret), relative=1)))
    named = given / place.format(secret=secret)
    assert refusal(path) == (
        f"FILE: names {named}, not in the folder of the file that names it: if you trust it, set "
        f"GEOCORE_ROOTS={secret.parent} to let files name it"
    )
    assert scene_hash(path) == sha256_file(path)
    monkeypatch.setenv("GEOCORE_ROOTS", f"/nowhere{os.pathsep}{secret.parent}")
    assert values(path) == [SECRET]
    assert scene_hash(path) != sha256_file(path)


def test_the_folder_next_to_a_root_is_none(given, secret, monkeypatch):
    write(secret.parent.with_name("home2") / "a.tif", SECRET)
    (given / "a.vrt").write_text(vrt(source("../home2/a.tif", relative=1)))
    monkeypatch.setenv("GEOCORE_ROOTS", str(secret.parent))
    assert "home2" in refusal(given / "a.vrt")


def test_links_that_the_user_names_are_followed(given, secret, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    os.symlink(secret, links / "scene.tif")
    (given / "a.vrt").write_text(vrt(source("own.tif", relative=1)))
    os.symlink(given / "a.vrt", links / "a.vrt")
    os.symlink(given, links / "folder")
    assert values(links / "scene.tif") == [SECRET]
    assert values(links / "a.vrt") == values(links / "folder" / "a.vrt") == [OWN]


@pytest.mark.parametrize("way", ["link", "dots"])
def test_steps_upwards_are_not_taken_another_way_than_gdal_takes_them(given, secret, way):
    # Here `..` leads from tiles/deep; GDAL takes away the last step of the name, and would find the link.
    (given / "tiles" / "deep").mkdir(parents=True)
    write(given / "tiles" / "x.tif")
    os.symlink(secret, given / "x.tif")
    (given / "tiles" / "deep" / "inner.vrt").write_text(vrt(source("../x.tif", relative=1)))
    os.symlink("tiles/deep", given / "short")
    name = {"link": "short/inner.vrt", "dots": "tiles/deep/../deep/inner.vrt"}[way]
    (given / "a.vrt").write_text(vrt(source(name, relative=1)))
    if way == "dots":
        (given / "tiles" / "deep" / "inner.vrt").write_text(vrt(source("../../tiles/x.tif", relative=1)))
    assert "is named by way of a link or of '..'" in refusal(given / "a.vrt")


def test_every_kind_of_virtual_raster_is_held_to_it(given, secret):
    with rasterio.open(secret) as opened, WarpedVRT(opened, crs="EPSG:4326") as warped:
        rasterio_copy(warped, given / "warped.vrt", driver="VRT")
    shutil.copy(secret, given / "inside.tif")
    with rasterio.open(given / "inside.tif") as opened, WarpedVRT(opened, crs="EPSG:4326") as warped:
        rasterio_copy(warped, given / "inside.vrt", driver="VRT")
    assert SECRET in values(given / "inside.vrt")
    inner = vrt(source(secret)).replace("<", "&lt;").replace(">", "&gt;")
    texts = {
        "within": vrt(source(inner)),
        "mask": vrt(source("own.tif", relative=1)).replace(
            "</VRTDataset>",
            f'<MaskBand><VRTRasterBand dataType="Byte">{source(secret)}</VRTRasterBand></MaskBand></VRTDataset>',
        ),
        "overview": vrt(
            f"{source('own.tif', relative=1)}<Overview><SourceFilename>{secret}</SourceFilename></Overview>"
        ),
        "derived": vrt(
            f"<PixelFunctionType>sum</PixelFunctionType>{source(secret)}{source(secret)}",
            band=' subClass="VRTDerivedRasterBand"',
        ),
        "case": vrt(source(secret).replace("SourceFilename", "sourcefilename")),
        "pan": '<VRTDataset subClass="VRTPansharpenedDataset"><PansharpeningOptions><PanchroBand>'
        f"<SourceFilename>{secret}</SourceFilename></PanchroBand></PansharpeningOptions></VRTDataset>",
    }
    for name, text in texts.items():
        (given / f"{name}.vrt").write_text(text)
    for name in (*texts, "warped"):
        assert re.search(r"names \S+secret.tif, not in the folder", refusal(given / f"{name}.vrt")), name
    texts["derived"] = texts["derived"].replace(str(secret), str(given / "own.tif"))
    (given / "derived.vrt").write_text(texts["derived"])
    assert values(given / "derived.vrt") == [2 * OWN]


REFUSED = {
    "raw bytes": (vrt("", band=' subClass="VRTRawRasterBand"'), "VRTRawRasterBand"),
    "raw offset": (vrt(f"{source('own.tif')}<ImageOffset>0</ImageOffset>"), "<ImageOffset>"),
    "processed": ('<VRTDataset subClass="VRTProcessedDataset"/>', "VRTProcessedDataset"),
    "arrays": ("<VRTDataset><Group name='/'/></VRTDataset>", "<Group>"),
    "written": (vrt("<DestinationDataset>own.tif</DestinationDataset>"), "<DestinationDataset>"),
    "heights": (vrt("<DEMPath>/etc/passwd</DEMPath>"), "<DEMPath>"),
    "places": (vrt('<Metadata domain="GEOLOCATION"><MDI key="X_DATASET">/a</MDI></Metadata>'), "metadata X_DATASET"),
    "overviews": (vrt('<Metadata><MDI key="OVERVIEW_FILE">/a</MDI></Metadata>'), "metadata OVERVIEW_FILE"),
    "shown": (vrt('<SimpleSource SourceFilename="/a.tif"/>'), "an attribute sourcefilename"),
    "root": (
        vrt("<SimpleSource><OpenOptions><OOI key='ROOT_PATH'>/</OOI></OpenOptions></SimpleSource>"),
        "the open option ROOT_PATH",
    ),
    "crs": (vrt("<SourceSRS>http://127.0.0.1:1/a</SourceSRS>"), "the CRS 'http://127.0.0.1:1/a'"),
    "crs file": ("<VRTDataset><SRS>/etc/passwd</SRS></VRTDataset>", "the CRS '/etc/passwd'"),
    "doctype": ('<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]>' + vrt(source("&b;")), "a document type"),
    "cdata": (vrt(source("<![CDATA[own.tif]]>")), "CDATA"),
    "comment": (vrt(source("own.tif<!-- -->/a")), "a comment within a value"),
    "nested tags": (vrt(source("own.tif<a>b</a>")), "<a>"),
    "depth": (vrt("<Metadata>" * 100 + "</Metadata>" * 100), "more than 64 levels"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_parts_that_could_lead_anywhere_are_refused(given, kind):
    text, named = REFUSED[kind]
    (given / "a.vrt").write_text(text)
    assert refusal(given / "a.vrt") == (
        f"FILE: a virtual raster with {named}, which could lead anywhere, is not read: write it into a GeoTIFF if you "
        "trust it: gdal_translate IN OUT.tif"
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (
            "/vsicurl/http://127.0.0.1:1/a.tif",
            "an address: if you trust it, set GEOCORE_ROOTS=http://127.0.0.1:1 to let",
        ),
        ("/vsis3/bucket/folder/a.tif", "an address: if you trust it, set GEOCORE_ROOTS=s3://bucket/folder to let"),
        ("https://example.org/a.tif", "which is no file: must be the path of a raster: write /vsicurl/ in front of it"),
        ("/vsistdin/", "which is no file"),
        ("/vsicurl?url=http://127.0.0.1:1/a.tif", "which is no file"),
        ("/vsizip//vsicurl/http://127.0.0.1:1/a.zip", "which is no file"),
        ("/vsizip/a.zip/own.tif", "parts are read of files below a stated root only"),
        ('NETCDF:"a.nc":b', "parts are read of files below a stated root only"),
        ("vrt://own.tif?bands=1", "which is no file"),
        ("&lt;GDAL_WMS>", "which is no file"),
        ("WMS:http://127.0.0.1:1", "which is no file"),
        ("own.txt", "which is of a format without a signature: must be a raster that holds its own pixels"),
        ("none.tif", "No such file or directory: must be a raster"),
        (".", "is a folder: must be a raster"),
    ],
)
def test_only_files_are_named(given, name, kind):
    (given / "own.txt").write_text("ncols 1\n")
    (given / "a.vrt").write_text(vrt(source(name, relative=1)))
    assert kind in refusal(given / "a.vrt")


def test_loops_and_towers_end(given):
    (given / "a.vrt").write_text(vrt(source("b.vrt", relative=1)))
    (given / "b.vrt").write_text(vrt(source("a.vrt", relative=1)))
    assert "names itself" in refusal(given / "a.vrt")
    for number in range(12):
        (given / f"{number}.vrt").write_text(vrt(source(f"{number + 1}.vrt" if number < 11 else "own.tif", relative=1)))
    assert "the 9th one in another" in refusal(given / "0.vrt")
    assert values(given / "5.vrt") == [OWN]


@pytest.mark.parametrize("language", ["Python", "PYTHON", " python "])
def test_programs_in_a_virtual_raster_never_run(given, language, monkeypatch):
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    code = f"open({str(given / 'ran')!r}, 'w')\ndef f(*args, **kwargs): pass\n"
    inside = (
        f"<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>{language}</PixelFunctionLanguage>"
        f"<PixelFunctionCode>{code}</PixelFunctionCode>{source('own.tif', relative=1)}"
    )
    for text in (inside, inside.replace(f"<PixelFunctionCode>{code}</PixelFunctionCode>", "")):
        (given / "a.vrt").write_text(vrt(text, band=' subClass="VRTDerivedRasterBand"'))
        assert "which could lead anywhere" in refusal(given / "a.vrt")
    assert not (given / "ran").exists()


def test_joined_maps_open_from_anywhere_and_after_they_moved(tmp_path, monkeypatch):
    maps = [
        write(tmp_path / "maps" / f"{name}_pred.tif", value, left=5e5 + 640 * value)
        for value, name in enumerate("ab", 1)
    ]
    (joined,) = write_mosaics(tmp_path / "maps", "all_pred", maps)
    assert values(joined) == [1, 2]
    monkeypatch.chdir(tmp_path)
    assert values(Path("maps/all_pred.vrt")) == [1, 2]
    shutil.move("maps", "moved")
    assert values(Path("moved/all_pred.vrt")) == [1, 2]
    monkeypatch.chdir("moved")
    assert values(Path("all_pred.vrt")) == [1, 2]


# Roots


def test_roots_are_whole_paths_and_addresses(monkeypatch, tmp_path):
    def named(place, by=tmp_path / "given" / "a.vrt") -> bool:
        try:
            check_named(place, by=by, folder=by.parent)
        except SceneError:
            return False
        return True

    assert named(tmp_path / "given" / "deep" / "a.tif") and not named(tmp_path / "a.tif")
    roots = ["https://example.org:8080/tiles", str(tmp_path), "s3://bucket"]
    monkeypatch.setenv("GEOCORE_ROOTS", os.pathsep.join(roots))
    assert named(tmp_path / "a.tif")
    assert named("https://example.org:8080/tiles/a.tif") and named("https://EXAMPLE.org:8080/tiles/b/../a.tif")
    assert named("s3://bucket/a/b.tif") and not named("s3://bucket2/a.tif")
    for place in ("tiles2/a.tif", "a.tif", "tiles/../a.tif", "tiles/%2e%2e/a.tif"):
        assert not named(f"https://example.org:8080/{place}")
    assert not named("https://example.org/tiles/a.tif") and not named("http://example.org:8080/tiles/a.tif")
    monkeypatch.setenv("GEOCORE_ROOTS", "data")
    with pytest.raises(SettingsError, match=r"GEOCORE_ROOTS: 'data': must be whole paths of folders, or addresses"):
        named(tmp_path / "a.tif")


def test_a_list_of_bands_names_files_in_its_folder(given, secret, monkeypatch):
    path = given / "scene.yaml"
    path.write_text("bands: {red: own.tif, height: ../given/own.tif}")
    with closing(open_scene(path)) as image:
        assert image.layer.bands.names == ("red", "height")
    os.symlink(secret, given / "link.tif")
    for name in ("../home/secret.tif", str(secret), "link.tif", "https://example.org/a.tif"):
        path.write_text(f"bands: {{red: own.tif, height: {{file: '{name}'}}}}")
        with pytest.raises(
            SceneError, match=r"scene.yaml: names .*: if you trust it, set GEOCORE_ROOTS=(/|https://ex)"
        ):
            granule_of(path)
    path.write_text("bands: {height: ../home/secret.tif}")
    monkeypatch.setenv("GEOCORE_ROOTS", str(secret.parent))
    with closing(open_scene(path)) as image:
        assert image.layer.bands.names == ("height",)


# Special files


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_a_pipe_is_no_raster_and_nothing_waits_for_it(given):
    os.mkfifo(given / "pipe.tif")
    assert refusal(given / "pipe.tif") == "FILE: is a named pipe: must be a readable file; check the path"
    (given / "a.vrt").write_text(vrt(source("pipe.tif", relative=1)))
    assert "is a named pipe: must be a raster; build it anew" in refusal(given / "a.vrt")
    for name in ("own.tif.aux.xml", "own.tfw", "own.tif.msk", "own.hdr", "own.TAB", "own_rpc.txt", "own.prj"):
        os.mkfifo(given / name)
        assert (
            refusal(given / "own.tif")
            == f"FILE: is read with {name}, which lies beside it and is a named pipe: remove that"
        )
        os.unlink(given / name)
    os.symlink("/dev/zero", given / "own.tif.aux.xml")
    assert "is a device" in refusal(given / "own.tif")
    os.unlink(given / "own.tif.aux.xml")
    os.symlink("/dev/zero", given / "zero.tif")
    assert "is a device" in refusal(given / "zero.tif")
    os.symlink("loop.tif", given / "loop.tif")
    assert "Too many levels of symbolic links" in refusal(given / "loop.tif")
    assert values(given / "own.tif") == [OWN]  # in spite of those that lie there under other names


def test_opening_a_dataset_keeps_no_other_open(given):
    write(given / "own.tif.msk")
    with closing(open_dataset(given / "own.tif")) as dataset:
        assert dataset.driver == "GTiff" and {Path(file).name for file in dataset.files} == {"own.tif", "own.tif.msk"}
