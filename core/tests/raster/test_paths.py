from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from geocore.errors import SceneError
from geocore.raster.geotiff import RasterReader, open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.paths import as_path_or_url, gdal_env, is_remote, redacted, stem_of
from geocore.raster.products import find_scenes, scene_name
from geocore.raster.write import write_raster

GRID = Grid(1536, 1536, (10.0, 0.0, 500000.0, 0.0, -10.0, 8000000.0), "EPSG:32652", length_unit="m")
VALUES = np.random.default_rng(0).integers(0, 250, (2, 1536, 1536)).astype("uint8")


class Ranges(BaseHTTPRequestHandler):
    """Serves files of a folder by ranges and counts what it sends."""

    folder: Path
    sent: list[int]
    broken = False

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.folder / self.path.partition("?")[0].lstrip("/")
        if self.broken or not path.is_file():
            self.send_error(500 if self.broken else 404)
            return
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2]), len(data) - 1)) if wanted else (0, len(data) - 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if body:
            self.sent.append(last - first + 1)
            self.wfile.write(data[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, type[Ranges]]]:
    handler = type("Handler", (Ranges,), {"folder": folder, "sent": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")


def test_addresses_keep_their_slashes_and_paths_are_paths() -> None:
    for address in ("https://example.org/a/b.tif?key=1", "http://x/y.tif", "s3://bucket/key.tif"):
        assert is_remote(address)
        assert as_path_or_url(address) == address
    for path in ("a/b.tif", "C:/a.tif", "/vsicurl/https://example.org/a.tif", Path("https://example.org/a.tif")):
        assert not is_remote(path)
        assert isinstance(as_path_or_url(path), Path)


def test_names_and_messages_leave_out_what_is_secret() -> None:
    address = "https://user:word@example.org:8000/a/scene.v1.tif?signature=secret"
    assert stem_of(address) == scene_name(address) == "scene.v1"
    assert stem_of("a/b.c.tif") == "b.c"
    assert redacted(address) == "https://example.org:8000/a/scene.v1.tif"
    assert redacted(Path("a/b.tif")) == "a/b.tif"


def test_a_window_fetches_the_ranges_it_needs(tmp_path: Path) -> None:
    write_raster(tmp_path / "scene.tif", VALUES, grid=GRID, band_names=["red", "nir"])
    size = (tmp_path / "scene.tif").stat().st_size
    with serving(tmp_path) as (root, server):
        with open_raster(f"{root}/scene.tif?signature=1") as scene:
            assert scene.name == "scene"
            assert scene.grid == GRID
            assert scene.layers["image"].bands.names == ("red", "nir")
            patch = scene.read_layers(Window(600, 700, 200, 300))["image"]
        np.testing.assert_array_equal(patch.values, VALUES[:, 600:800, 700:1000])
        assert 0 < sum(server.sent) < size / 4
        assert find_scenes([f"{root}/scene.tif"], extensions=()) == {"scene": f"{root}/scene.tif"}


def test_a_remote_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as (root, _):
        with pytest.raises(SceneError, match=r"cannot be opened as a raster \(.*404.*\); check the address") as caught:
            open_raster(f"{root}/missing.tif?signature=secret")
        (tmp_path / "text.tif").write_text("no raster\n" * 99)
        with pytest.raises(SceneError, match="not recognized"):
            open_raster(f"{root}/text.tif")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_dead_server_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as (root, _):
        pass
    with pytest.raises(SceneError, match="check the address, and that its server answers") as caught:
        open_raster(f"{root}/scene.tif")
    assert "\n" not in str(caught.value)


def test_a_server_that_fails_later_is_one_line(tmp_path: Path) -> None:
    write_raster(tmp_path / "later.tif", VALUES, grid=GRID)
    with serving(tmp_path) as (root, server), open_raster(f"{root}/later.tif") as scene:
        scene.read(Window(0, 0, 10, 10))
        server.broken = True
        with pytest.raises(SceneError, match=r"cannot be read .*; the server does not answer as it should") as caught:
            scene.read(Window(1200, 1200, 300, 300))
    assert "\n" not in str(caught.value)


def test_gdals_own_variables_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    from rasterio.env import getenv

    monkeypatch.setenv("GDAL_HTTP_CONNECTTIMEOUT", "3")
    with gdal_env("https://example.org/a.tif"):
        assert "GDAL_HTTP_CONNECTTIMEOUT" not in getenv()
        assert getenv()["GDAL_HTTP_LOW_SPEED_TIME"] == "30"
    with gdal_env(Path("a.tif")):
        assert "GDAL_HTTP_CONNECTTIMEOUT" in os.environ


def test_a_block_is_that_of_the_file(tmp_path: Path) -> None:
    import rasterio

    for name, options, block in (
        ("tiles", {"tiled": True, "blockxsize": 64, "blockysize": 32}, (32, 64)),
        ("strips", {"blockysize": 7}, (7, 100)),
    ):
        path = tmp_path / f"{name}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=90, width=100, dtype="uint8", crs="EPSG:32652",
            transform=(1, 0, 5, 0, -1, 5), **options,
        ) as file:  # fmt: skip
            file.write(np.ones((1, 90, 100), "uint8"))
        source = RasterReader(path)
        assert source.block == block
        source.close()
