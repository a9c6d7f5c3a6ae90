"""What the golden run compares: values, and neither names nor headers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from safetensors.numpy import save_file

from geocore_bench import golden
from geocore_bench.golden import differences, main, product_digests, weights_digest

RESULTS: dict[str, Any] = {
    "weights": "1f",
    "evaluation": "2e",
    "scores": {"iou_water": 0.25},
    "products": {"a_pred.tif": "3d"},
}


Tensors = dict[str, np.ndarray]


def write(path: Path, values: np.ndarray, **more: Any) -> Path:
    with rasterio.open(path, "w", driver="GTiff", height=4, width=6, count=1, dtype=values.dtype, **more) as file:
        file.write(values, 1)
        file.update_tags(MADE=path.parent.name)
    return path


@pytest.fixture(autouse=True)
def no_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "run", lambda task, work: RESULTS)


def test_renamed_weights_are_the_same_and_changed_ones_are_not(tmp_path: Path) -> None:
    values: Tensors = {"a.weight": np.arange(6, dtype=np.float32), "b.bias": np.zeros(2, np.float32)}
    files: dict[str, Tensors] = {
        "whole": values,
        "renamed": {"c.weight": values["a.weight"], "d.bias": values["b.bias"]},
        "shaped": {**values, "a.weight": values["a.weight"].reshape(2, 3)},
        "changed": {**values, "b.bias": np.array([0, 1e-38], np.float32)},
    }
    for name, tensors in files.items():
        save_file(tensors, tmp_path / name)
    whole, renamed, shaped, changed = (
        weights_digest(tmp_path / name) for name in ("whole", "renamed", "shaped", "changed")
    )
    assert whole == renamed
    assert len({whole, shaped, changed}) == 3


def test_products_are_pixels_and_where_they_lie(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    here, there = rasterio.Affine(10, 0, 5e5, 0, -10, 6e6), rasterio.Affine(10, 0, 5e5, 0, -10, 6e6 + 10)
    digests = {}
    for name, array, more in [
        ("a", values, {"transform": here}),
        ("packed", values, {"transform": here, "compress": "deflate"}),
        ("moved", values, {"transform": there}),
        ("nodata", values, {"transform": here, "nodata": 255}),
        ("other", values + 1, {"transform": here}),
    ]:
        (folder := tmp_path / name).mkdir()
        write(folder / "x_pred.tif", array, **more)
        shutil.copy(folder / "x_pred.tif", folder / "x_overlay.png")
        (folder / "layers.csv").write_text("depth\n1\n")
        found = dict(product_digests(folder))
        assert list(found) == ["layers.csv", "x_pred.tif"]
        digests[name] = found["x_pred.tif"]
    assert digests["a"] == digests["packed"]
    assert len(set(digests.values())) == 4


def test_each_difference_is_a_line() -> None:
    assert list(differences("floods", RESULTS, RESULTS)) == []
    other = {**RESULTS, "weights": "ff", "scores": {"iou_water": 0.5}, "products": {"b.tif": "3d"}}
    assert list(differences("floods", RESULTS, other)) == [
        "floods: another weights",
        "floods: iou_water was 0.25, is 0.5",
        "floods: a_pred.tif was 3d, is not there",
        "floods: b.tif was not there, is 3d",
    ]
    assert list(differences("floods", None, RESULTS)) == ["floods: the file knows nothing of it"]


def test_what_was_stored_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ["--file", str(tmp_path / "golden.json")]
    with pytest.raises(SystemExit, match="2"):
        main(["--check", *file])
    main(["--store", "floods", *file])
    main(["--store", "crops", *file])
    assert sorted(json.loads((tmp_path / "golden.json").read_text())["tasks"]) == ["crops", "floods"]
    with pytest.raises(SystemExit, match="0"):
        main(["--check", "floods", "crops", *file])
    monkeypatch.setattr(golden, "run", lambda task, work: {**RESULTS, "weights": "ff"})
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        main(["--check", "floods", *file])
    assert capsys.readouterr().out == "floods: another weights\nfloods: 1 differing\n"


@pytest.mark.parametrize("words", [[], ["--check", "--store"], ["--check", "glaciers"]])
def test_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "geocore-bench golden: error:" in capsys.readouterr().err
