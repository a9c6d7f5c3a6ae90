"""A content hash covers all that a scene's name leads to, and nothing of where it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy as rasterio_copy
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

from geocore.raster.geotiff import open_raster
from geocore.raster.products import files_of_scene, scene_hash
from geocore.storage.files import sha256_file


def write(path: Path, value: int) -> Path:
    profile = {"driver": "GTiff", "count": 1, "height": 8, "width": 8, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=from_origin(5e5, 6e6, 10, 10)) as file:
        file.write(np.full((1, 8, 8), value, np.uint8))
    return path


def mosaic(path: Path, *sources: str, relative: int = 1) -> Path:
    """A VRT of one band a source, as gdalbuildvrt -separate writes it."""
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for number, source in enumerate(sources, 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{bands}</VRTDataset>')
    return path


def test_a_file_that_names_no_other_has_the_hash_of_its_bytes(tmp_path):
    path = write(tmp_path / "a.tif", 1)
    assert scene_hash(path) == scene_hash(str(path)) == sha256_file(path)
    broken = tmp_path / "broken.vrt"
    broken.write_text("<VRTDataset")
    assert scene_hash(broken) == sha256_file(broken)


@pytest.mark.parametrize("kind", ["plain", "absolute", "nested", "warped", "within", "part"])
def test_a_vrt_is_all_that_it_names_wherever_that_lies(tmp_path, kind):
    folder = tmp_path / "there"
    (folder / "tiles").mkdir(parents=True)
    source = write(folder / "tiles" / "dem.tif", 1)
    write(folder / "tiles" / "red.tif", 2)
    path = folder / "scene.vrt"
    if kind == "absolute":
        mosaic(path, str(source), relative=0)
    elif kind == "nested":
        mosaic(folder / "tiles" / "inner.vrt", "dem.tif")
        mosaic(path, "tiles/inner.vrt", "tiles/red.tif")
    elif kind == "warped":
        with rasterio.open(source) as opened, WarpedVRT(opened, crs="EPSG:4326") as warped:
            rasterio_copy(warped, path, driver="VRT")
    elif kind == "within":
        inner = mosaic(folder / "inner.vrt", "tiles/dem.tif").read_text()
        mosaic(path, inner.replace("<", "&lt;").replace(">", "&gt;"))
        (folder / "inner.vrt").unlink()
    elif kind == "part":
        mosaic(path, "GTIFF_DIR:1:tiles/dem.tif")
    else:
        mosaic(path, "tiles/red.tif", "tiles/dem.tif")
    with open_raster(path) as scene:  # GDAL reads it as it is meant here
        assert 1 in scene.read_layers(scene.grid.whole)["image"].values
    first = scene_hash(path)
    assert first != sha256_file(path)
    if kind not in ("absolute", "warped"):
        moved = tmp_path / "moved"
        shutil.copytree(folder, moved)
        assert scene_hash(moved / "scene.vrt") == first
    write(source, 3)
    second = scene_hash(path)
    source.unlink()
    assert len({first, second, scene_hash(path)}) == 3
    write(source, 1)
    assert scene_hash(path) == first


def test_what_lies_elsewhere_counts_by_its_address_and_a_loop_ends(tmp_path):
    far = mosaic(tmp_path / "far.vrt", "/vsicurl/https://example.org/a.tif", "https://example.org/b.tif", relative=0)
    assert scene_hash(far) == sha256_file(far)
    loop = mosaic(tmp_path / "loop.vrt", "loop.vrt")
    assert scene_hash(loop) == scene_hash(loop)


def test_a_file_in_an_archive_counts_with_the_archive(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCORE_ROOTS", str(tmp_path))
    write(tmp_path / "dem.tif", 1)
    shutil.make_archive(str(tmp_path / "dem"), "zip", tmp_path, "dem.tif")
    path = mosaic(tmp_path / "scene.vrt", f"/vsizip/{tmp_path}/dem.zip/dem.tif", relative=0)
    (tmp_path / "dem.tif").unlink()
    with open_raster(path) as scene:
        assert (scene.read_layers(scene.grid.whole)["image"].values == 1).all()
    first = scene_hash(path)
    (tmp_path / "dem.zip").write_bytes((tmp_path / "dem.zip").read_bytes() + b"\0")
    assert scene_hash(path) != first


def test_the_files_of_a_scene_are_those_whose_content_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCORE_ROOTS", "https://example.org")
    dem, red = write(tmp_path / "dem.tif", 1), write(tmp_path / "red.tif", 2)
    inner = mosaic(tmp_path / "inner.vrt", "dem.tif", "gone.tif")
    outer = mosaic(tmp_path / "outer.vrt", "inner.vrt", "red.tif")
    assert list(files_of_scene(dem)) == [dem]
    assert list(files_of_scene(outer)) == [outer, inner, dem, red]
    listed = tmp_path / "list.yaml"
    listed.write_text("bands:\n  a: red.tif\n  b: inner.vrt\n  c: https://example.org/c.tif\n")
    assert list(files_of_scene(listed)) == [red, inner, dem]
