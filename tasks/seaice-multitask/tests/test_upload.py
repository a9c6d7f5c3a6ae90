"""The upload file, scored by somebody else: only netCDF4 and scikit-learn, and equal to seaice-evaluate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from sklearn.metrics import f1_score, r2_score

from seaice_multitask import baselines, evaluate, predict, prepare, train
from seaice_multitask.sample import write_sample

WEIGHTS = {"SIC": 2, "SOD": 2, "FLOE": 1}


def challenge_score(upload: Path, references: list[Path]) -> dict[str, float]:
    """The challenge's rule, as a participant would write it down.

    Variables `<scene>_<chart>` of the upload file against the charts of `<scene>_prep_reference.nc`, all scenes pooled,
    without pixels whose reference is 255; percentages rounded to three decimals before they are combined.
    """
    pooled: dict[str, tuple[list[Any], list[Any]]] = {chart: ([], []) for chart in WEIGHTS}
    with netCDF4.Dataset(upload) as submitted:
        for path in references:
            with netCDF4.Dataset(path) as reference:
                for chart, (truth, found) in pooled.items():
                    y = np.ma.getdata(reference[chart][:])
                    p = np.ma.getdata(submitted[f"{path.name[:19]}_{chart}"][:])
                    truth.append(y[y != 255])
                    found.append(p[y != 255])
    scores = {}
    for chart, (truth, found) in pooled.items():
        y, p = np.concatenate(truth).astype(float), np.concatenate(found).astype(float)
        metric = r2_score(y, p) if chart == "SIC" else f1_score(y, p, average="weighted")
        scores[chart] = round(100 * float(metric), 3)
    combined = sum(weight * scores[chart] for chart, weight in WEIGHTS.items()) / sum(WEIGHTS.values())
    return scores | {"combined": round(combined, 3)}


def run(module: Any, *words: object) -> None:
    """Runs an entry point in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            module.main()
    assert stopped.value.code == 0


def test_upload_scores_as_evaluate_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test scenes without charts of their own, as in the challenge; 7 divides neither lines nor samples.

    By the middle pixel, so that there are charted pixels for which the network, having no radar there, gives no class.
    """
    monkeypatch.setattr(baselines, "GROWTHS", baselines.GROWTHS[:1])
    write_sample(tmp_path / "raw", seed=4, scenes=6, shape=(150, 165), test_scenes=3)
    tests = [path.name for path in sorted((tmp_path / "raw").glob("*_reference.nc"))]
    named = [name.replace("_reference", "") for name in tests]
    (tmp_path / "testset.json").write_text(json.dumps(named))
    run(
        prepare,
        *("--data", tmp_path / "raw", "--out", tmp_path / "data", "--references", tmp_path / "raw"),
        *("--test-list", tmp_path / "testset.json", "--split.train", "0.6", "--split.val", "0.3"),
        *("--working.downscale", "7", "--working.sar-reduction", "nearest", "--patch", "16"),
    )
    run(
        train,
        *("--data", tmp_path / "data", "--run", tmp_path / "run", "--model.widths", "4", "8"),
        *("--tiling.size", "16", "--tiling.overlap", "4", "--patches-per-epoch", "8", "--training.steps", "4"),
        *("--training.batch-size", "2", "--training.validate-every", "4", "--optimizer.learning-rate", "0.02"),
        *("--device.device", "cpu", "--device.threads", "1"),
    )
    cpu = ["--device.device", "cpu", "--device.threads", "1"]
    run(evaluate, "--run", tmp_path / "run", "--resamples", "0", *cpu)
    inputs = [tmp_path / "raw" / name for name in named]
    run(predict, "--run", tmp_path / "run", "--input", *inputs, "--output", tmp_path / "maps", *cpu)
    ours = json.loads((tmp_path / "run/evaluation-test.json").read_text())["model"]
    theirs = challenge_score(tmp_path / "maps/upload_package.nc", [tmp_path / "raw" / name for name in tests])
    found = {"SIC": ours["SIC_r2"], "SOD": ours["SOD_f1"], "FLOE": ours["FLOE_f1"], "combined": ours["combined"]}
    # Both are rounded to three decimals: a half may fall either way.
    assert found == pytest.approx(theirs, abs=0.001)
    # The test would pass with nothing to compare otherwise.
    assert len(set(theirs.values())) == 4
