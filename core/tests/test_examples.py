"""The programs of the README run as they are, in ten lines, and give what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import geopandas
import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest

import geocore as geo

CORE = Path(__file__).parents[1]
PROGRAMS = sorted((CORE / "examples").glob("0*.py"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    return lambda number: runpy.run_path(str(PROGRAMS[number - 1]))


def test_programs_have_at_most_ten_lines_of_code() -> None:
    assert [program.name[:2] for program in PROGRAMS] == ["01", "02", "03", "04", "05", "06"]
    for program in PROGRAMS:
        lines = [line for line in program.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
        assert len(lines) <= 10, program


def test_readme_shows_these_programs() -> None:
    readme = (CORE / "README.md").read_text()
    shown = re.findall(r"```python\n(# .*?)```", readme, re.S)[: len(PROGRAMS)]
    assert shown == [program.read_text() for program in PROGRAMS]
    assert readme.index(shown[0]) < 1500, "the programs come first"
    picture = CORE / re.findall(r"!\[[^]]*]\(([^)]+)\)", readme)[0]
    assert picture.stat().st_size < 150_000


def test_open(run: Any, tmp_path: Path) -> None:
    patch = run(1)["patch"]
    assert patch.values.shape == (3, 500, 500) and patch.values.dtype == np.uint16 and patch.valid.all()
    assert patch.grid.bounds == (501_000, 4_994_000, 506_000, 4_999_000)
    with geo.open(tmp_path / "place.tif") as written:
        assert written.grid.bounds == patch.grid.bounds
        np.testing.assert_array_equal(written.read().values, patch.values)
    picture = matplotlib.image.imread(tmp_path / "place.png")
    # Water takes up infrared, which is red here.
    with geo.open(geo.sample() / "truth.tif") as truth:
        water = truth.read(bounds=patch.grid.bounds).values[0] == 1
    assert picture.shape == (500, 500, 4)
    assert picture[..., 0][water].mean() < 0.2 < 0.7 < picture[..., 0][~water].mean()


def test_predict(run: Any, tmp_path: Path) -> None:
    result = run(2)["result"]
    scores = geo.compare(result.labels, geo.sample() / "truth.tif", classes=["land", "water"])
    assert scores["miou"] > 0.97
    assert result.paths == {"label": Path("water.tif")}
    assert (result.labels == 255).sum() == 160 * 161 // 2
    assert matplotlib.image.imread(tmp_path / "water.png").shape == (700, 900, 4)


def test_fit(run: Any) -> None:
    made = run(3)
    assert made["fitted"].scores["miou"] > 0.9
    assert Path("water.pt").stat().st_size > 1000


def test_evaluate(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scores = run(4)["scores"]
    assert scores["miou"] > 0.9
    low, high = scores.interval("miou")
    assert low <= scores["miou"] <= high
    assert float(capsys.readouterr().out.splitlines()[-1]) > 0.9


def test_polygonize(run: Any, tmp_path: Path) -> None:
    lakes = run(5)["lakes"]
    assert len(lakes) > 5 and lakes.area_m2.min() >= 99_000
    # A pixel of UTM is 100 m2 to a thousandth.
    np.testing.assert_allclose(lakes.area_m2, lakes.geometry.area, rtol=1e-3)
    assert geopandas.read_file(tmp_path / "lakes.gpkg").area_m2.tolist() == lakes.area_m2.tolist()
    assert (tmp_path / "lakes.png").stat().st_size > 5000


def test_split(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(6)
    assert min(len(made[split]) for split in ("train", "val", "test")) > 3
    none, some = capsys.readouterr().out.splitlines()[-2:]
    assert none == "[]"
    assert "show the same ground" in some
