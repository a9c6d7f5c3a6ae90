"""Scores from counts against scikit-learn, the published class histograms, and what degenerate inputs give."""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, r2_score

from geocore.errors import DataError
from geocore.metrics.evaluation import Evaluation, bootstrap_interval
from seaice_multitask.charts import CLASS_NAMES
from seaice_multitask.config import AUTOICE_OUTPUTS, OutputSettings
from seaice_multitask.scores import (
    PRIMARY,
    ChartCounts,
    all_water,
    combined_of_state,
    named,
    per_class,
    r2,
    total,
    weighted_f1,
)

Maps = dict[str, np.ndarray]


def _maps(seed: int, *, masked: float = 0.4, agree: float = 0.7, missing: bool = False) -> tuple[Maps, Maps]:
    """Random charts and predictions that agree by a share; `missing` leaves a class out of the truth, one of both."""
    rng = np.random.default_rng(seed)
    truth, prediction = {}, {}
    for name, output in AUTOICE_OUTPUTS.items():
        classes = np.arange(output.classes)
        there = classes[2:] if missing else classes
        y = rng.choice(there, (60, 70), p=rng.dirichlet(np.ones(len(there)))).astype(np.uint8)
        guess = rng.choice(classes[1:], y.shape).astype(np.uint8)
        prediction[name] = np.where(rng.random(y.shape) < agree, y, guess)
        y[rng.random(y.shape) < masked] = 255
        truth[name] = y
    return truth, prediction


def _counts(truth: Maps, prediction: Maps, outputs: dict[str, OutputSettings] = AUTOICE_OUTPUTS) -> ChartCounts:
    counts = ChartCounts(outputs)
    counts.update(truth, prediction)
    return counts


def _official(truth: Maps, prediction: Maps) -> dict[str, float]:
    """The scores as the challenge makes them: all valid pixels at once, rounded, then combined and rounded again."""
    scores = {}
    for name in truth:
        valid = truth[name] != 255
        y, p = truth[name][valid].astype(float), prediction[name][valid].astype(float)
        scores[name] = r2_score(y, p) if name == "SIC" else f1_score(y, p, average="weighted")
    sic, sod, floe = (round(100 * scores[name], 3) for name in ("SIC", "SOD", "FLOE"))
    return {"combined": round((2 * sic + 2 * sod + floe) / 5, 3), "SIC_r2": sic, "SOD_f1": sod, "FLOE_f1": floe}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("agree", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("masked", [0.0, 0.5, 0.99])
def test_scores_equal_scikit_learn(masked, agree, missing):
    for seed in range(3):
        truth, prediction = _maps(seed, masked=masked, agree=agree, missing=missing)
        counts = _counts(truth, prediction)
        for name, chart in truth.items():
            valid = chart != 255
            y, p = chart[valid], prediction[name][valid]
            labels = np.arange(AUTOICE_OUTPUTS[name].classes)
            matrix = counts.matrix(name)
            np.testing.assert_array_equal(matrix, confusion_matrix(y, p, labels=labels))
            # Sums of at most 4200 terms in float64 differ by some 1e-15 times their size; R2 here is above -10.
            assert weighted_f1(matrix) == pytest.approx(f1_score(y, p, average="weighted"), rel=0, abs=1e-12)
            assert r2(matrix) == pytest.approx(r2_score(y.astype(float), p.astype(float)), rel=0, abs=1e-12)
            macro = f1_score(y, p, average="macro")
            each = f1_score(y, p, labels=labels, average=None, zero_division=np.nan)
            if name != "SIC":
                scores = named(counts)
                assert scores[f"{name}_f1_macro"] == pytest.approx(100 * macro, abs=0.00051)
                shown = [scores[f"{name}_f1_{label}"] for label in labels]
                np.testing.assert_allclose(shown, 100 * each, atol=0.00051, rtol=0)


@pytest.mark.parametrize("seed", range(25))
def test_rounded_scores_equal_the_official_ones(seed):
    truth, prediction = _maps(seed, agree=0.2 + 0.03 * seed)
    scores = named(_counts(truth, prediction))
    assert {name: scores[name] for name in ("combined", "SIC_r2", "SOD_f1", "FLOE_f1")} == _official(truth, prediction)


def test_pixels_are_pooled_over_scenes_and_not_scores():
    scenes = [_maps(seed, masked=seed / 5, agree=1 - seed / 5) for seed in range(4)]
    parts = [_counts(*scene) for scene in scenes]
    pooled = tuple(
        {name: np.concatenate([scene[i][name] for scene in scenes]) for name in AUTOICE_OUTPUTS} for i in (0, 1)
    )
    official = _official(*pooled)
    scores = named(total(iter(parts)))
    assert {name: scores[name] for name in official} == official
    assert abs(np.mean([named(part)["SIC_r2"] for part in parts]) - official["SIC_r2"]) > 1
    # The parts themselves did not change, and counting goes on after merging.
    whole = total(parts[:2])
    whole.update(*scenes[2])
    whole.merge(parts[3])
    np.testing.assert_array_equal(whole.state, total(parts).state)
    np.testing.assert_array_equal(parts[0].state, _counts(*scenes[0]).state)


def test_r2_of_as_many_pixels_as_the_real_data_have_is_exact():
    # 8e9 pixels in all; float32 sums, or int64 products of them, are off by far more.
    matrix = np.zeros((254, 254), np.int64)
    matrix[253, 253] = matrix[252, 252] = 4_000_000_000
    assert r2(matrix) == 1.0
    matrix[252, 253] = 1
    # One error of 1; the spread is 8e9 / 4.
    assert 1 - r2(matrix) == pytest.approx(1 / 2e9, rel=1e-6)


@pytest.mark.real
def test_all_water_on_the_real_histograms_scores_as_published():
    folder = os.environ.get("GEOCORE_DATA")
    if not folder:
        pytest.skip("GEOCORE_DATA is not set")
    scenes = json.loads((Path(folder) / "sea-ice" / "ai4arctic_scene_class_histograms.json").read_text())
    assert len(scenes) == 513
    parts = []
    for histograms in scenes.values():
        # The prediction does not matter here: say the truth.
        state = [
            np.diag([int(histograms[name].get(str(label), 0)) for label in range(output.classes)]).ravel()
            for name, output in AUTOICE_OUTPUTS.items()
        ]
        counts = ChartCounts(AUTOICE_OUTPUTS)
        counts.load_state(np.concatenate(state))
        parts.append(counts)
    whole = total(parts)
    assert 7.8e9 < whole.pixels("SIC") < 7.95e9
    scores = named(all_water(whole))
    assert round(scores["SIC_r2"] / 100, 2) == -0.65
    assert round(scores["SOD_f1"], 1) == 53.2
    assert round(scores["FLOE_f1"], 1) == 53.5
    assert scores["SOD_f1_macro"] < 14
    assert named(whole)["combined"] == 100.0


def test_all_water_is_the_score_of_a_map_of_zeros():
    truth, prediction = _maps(3)
    zeros = {name: np.zeros_like(chart) for name, chart in truth.items()}
    np.testing.assert_array_equal(all_water(_counts(truth, prediction)).state, _counts(truth, zeros).state)


def test_bootstrap_resamples_scenes_from_their_states():
    parts = [_counts(*_maps(seed, agree=0.5 + 0.05 * seed)) for seed in range(8)]
    states = np.stack([part.state for part in parts])
    whole = named(total(parts))[PRIMARY]
    assert combined_of_state(states.sum(axis=0), AUTOICE_OUTPUTS) == whole
    low, high = bootstrap_interval(states, lambda state: combined_of_state(state, AUTOICE_OUTPUTS), resamples=100)
    singles = [named(part)[PRIMARY] for part in parts]
    assert min(singles) < low < whole < high < max(singles)


def test_state_brings_counts_back():
    counts = _counts(*_maps(0))
    again = ChartCounts(AUTOICE_OUTPUTS)
    again.load_state(torch.from_numpy(counts.state).numpy())
    assert all(np.array_equal(again.matrix(name), counts.matrix(name)) for name in AUTOICE_OUTPUTS)
    assert counts.state.dtype == np.int64 and counts.state.shape == (11**2 + 6**2 + 7**2,)
    # Nobody outside holds the counts themselves.
    given = counts.state
    again.load_state(given)
    again.matrix("SIC")[:] = 0
    np.testing.assert_array_equal(again.state, counts.state)
    again.update(*_maps(1))
    np.testing.assert_array_equal(given, counts.state)
    with pytest.raises(ValueError, match="must be"):
        again.load_state(counts.state[:-1])


@pytest.mark.parametrize(
    "names,weights",
    [
        (["SIC"], [1]),
        (["SOD", "FLOE"], [2 / 3, 1 / 3]),
        (["SIC", "ridges"], [2 / 3, 1 / 3]),
        (["FLOE", "melt"], [0.5, 0.5]),
    ],
)
def test_combined_score_weighs_the_outputs_that_there_are(names, weights):
    others = {
        "ridges": OutputSettings(classes=254),
        "melt": OutputSettings(kind="regression", classes=5, loss="mean-square"),
    }
    outputs = {name: (AUTOICE_OUTPUTS | others)[name] for name in names}
    rng = np.random.default_rng(5)
    truth, prediction = (
        {name: rng.integers(0, output.classes, (40, 40), dtype=np.uint8) for name, output in outputs.items()}
        for _ in range(2)
    )
    scores = named(_counts(truth, prediction, outputs))
    each = [scores[f"{name}_{'r2' if name in ('SIC', 'melt') else 'f1'}"] for name in names]
    assert scores[PRIMARY] == pytest.approx(np.dot(weights, each), abs=0.00051)


def test_concentration_as_classes_is_scored_by_r2_as_the_challenge_does():
    truth, prediction = _maps(2)
    as_classes = AUTOICE_OUTPUTS | {"SIC": OutputSettings(classes=11)}
    assert named(_counts(truth, prediction, as_classes)) == named(_counts(truth, prediction))


@pytest.mark.parametrize("ignore", [0, 99])
def test_ignored_value_of_the_output_does_not_count_and_nor_does_the_mask(ignore):
    outputs = {"SOD": OutputSettings(classes=6, ignore=ignore)}
    truth = np.array([[ignore, 1, 2, 255], [3, ignore, 5, 255]], np.uint8)
    counts = _counts({"SOD": truth}, {"SOD": np.array([[1, 1, 2, 3], [3, 2, 4, 0]], np.uint8)}, outputs)
    assert counts.pixels("SOD") == 4
    assert named(counts)["SOD_f1"] == 75.0


@pytest.mark.parametrize("what", ["masked", "empty", "nothing", "no outputs"])
def test_without_pixels_every_score_is_nan_without_a_warning(what):
    outputs = {} if what == "no outputs" else AUTOICE_OUTPUTS
    shape = (0, 5) if what == "empty" else (4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = ChartCounts(outputs)
        if what != "nothing":
            masked = {name: np.full(shape, 255, np.uint8) for name in outputs}
            counts.update(masked, {name: np.zeros(shape, np.uint8) for name in outputs})
        for scored in (counts, all_water(counts)):
            scores = named(scored)
            assert PRIMARY in scores and all(math.isnan(value) for value in scores.values())
            assert math.isnan(combined_of_state(scored.state, outputs))
            for row in per_class(scored, CLASS_NAMES).values():
                assert row.pop("pixels") == 0 and all(math.isnan(value) for value in row.values())


@pytest.mark.parametrize("guess", [3, 4])
def test_chart_of_one_class_has_f1_but_no_r2(guess):
    truth = {name: np.full((3, 3), 3, np.uint8) for name in AUTOICE_OUTPUTS}
    prediction = {name: np.full((3, 3), guess, np.uint8) for name in AUTOICE_OUTPUTS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = named(_counts(truth, prediction))
    assert math.isnan(scores["SIC_r2"]) and math.isnan(scores[PRIMARY])
    assert scores["SOD_f1"] == scores["FLOE_f1"] == scores["SOD_f1_macro"] == (100.0 if guess == 3 else 0.0)
    assert math.isnan(scores["SOD_f1_0"])


@pytest.mark.parametrize(
    "truth,guess,message",
    [
        (6, 0, r"^SOD: true label 6: must be 0 to 5 or 255 \(ignored\); recode the labels$"),
        (0, 255, r"^SOD: a prediction is not a class: must be 0 to 5; check for nodata$"),
    ],
)
def test_value_that_is_no_class_is_refused_and_nothing_is_counted(truth, guess, message):
    good = {name: np.zeros((2, 2), np.uint8) for name in AUTOICE_OUTPUTS}
    counts = ChartCounts(AUTOICE_OUTPUTS)
    with pytest.raises(DataError, match=message):
        counts.update(
            good | {"SOD": np.full((2, 2), truth, np.uint8)}, good | {"SOD": np.full((2, 2), guess, np.uint8)}
        )
    assert not counts.state.any()


def test_prediction_under_a_masked_truth_may_be_anything():
    truth = {name: np.array([0, 1, 255, 255], np.uint8) for name in AUTOICE_OUTPUTS}
    prediction = {name: np.array([0, 1, 255, 99], np.uint8) for name in AUTOICE_OUTPUTS}
    assert named(_counts(truth, prediction))[PRIMARY] == 100.0


def test_tensors_count_as_arrays_do():
    truth, prediction = _maps(6)
    tensors = [{name: torch.from_numpy(chart) for name, chart in maps.items()} for maps in (truth, prediction)]
    np.testing.assert_array_equal(_counts(*tensors).state, _counts(truth, prediction).state)


def test_mistakes_of_the_caller_are_refused():
    truth, prediction = _maps(0)
    del prediction["FLOE"]
    with pytest.raises(ValueError, match="FLOE is missing"):
        ChartCounts(AUTOICE_OUTPUTS).update(truth, prediction)
    with pytest.raises(ValueError, match="only equal ones add up"):
        ChartCounts(AUTOICE_OUTPUTS).merge(ChartCounts({"SOD": AUTOICE_OUTPUTS["SOD"]}))
    with pytest.raises(ValueError, match="no counts"):
        total([])


def test_table_of_classes_names_them_and_fits_the_evaluation_file(tmp_path):
    truth, prediction = _maps(4, missing=True)
    counts = _counts(truth, prediction)
    table = per_class(counts, CLASS_NAMES)
    assert len(table) == 11 + 6 + 7
    assert table["SOD old ice"]["f1"] == named(counts)["SOD_f1_5"]
    assert table["SIC 10/10"]["pixels"] == (truth["SIC"] == 10).sum()
    assert math.isnan(table["SOD open water"]["f1"]) and table["SOD new ice"]["f1"] == 0.0
    assert "FLOE 6" in per_class(counts, {})
    evaluation = Evaluation(
        task="seaice",
        split="test",
        protocol={},
        samples=1,
        primary=PRIMARY,
        model=named(counts),
        baselines={"all water": named(all_water(counts))},
        per_class=table,
        checkpoint="none",
        data_hash="none",
        versions={},
    )
    evaluation.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json").model[PRIMARY] == named(counts)[PRIMARY]
    assert "SOD old ice" in evaluation.table()
