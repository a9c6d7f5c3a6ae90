"""The baseline solves the easy part of the sample, and takes its settings from validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geocore.device import device_context
from geocore.settings import DeviceSettings, TilingSettings
from slumps_detectron2.baseline import Components, SemanticNet, baseline_areas, train_baseline
from slumps_detectron2.config import BaselineSettings, CutSettings, PrepareSettings, SplitSettings, TrainSettings
from slumps_detectron2.data import IGNORED, Areas, class_values, describe
from slumps_detectron2.sample import write_sample
from slumps_detectron2.scores import all_scores, choose_threshold


@pytest.mark.slow
def test_easy_slumps_are_found(tmp_path: Path) -> None:
    """Evenly lit scenes with strong contrast and slumps apart from each other; 60 steps, one thread."""
    settings = PrepareSettings(
        data=write_sample(tmp_path / "scenes", seed=1, scenes=10, shape=(224, 224), difficulty="easy"),
        out=tmp_path,
        label_kind="instances",
        ignore=IGNORED,
        split=SplitSettings(train=0.6, val=0.2),
        cut=CutSettings(size=96, stride=96, negatives=0.5),
    )
    dataset = describe(settings)
    trained = TrainSettings(
        tiling=TilingSettings(size=224, overlap=64), baseline=BaselineSettings(steps=60, batch_size=4)
    )
    with device_context(DeviceSettings(device="cpu", threads=1)) as context:
        network = train_baseline(trained, dataset, tmp_path / "baseline", context)
        held_out, areas = Areas(dataset, "val"), Areas(dataset, "test")
        ours, theirs, chosen = baseline_areas(network, held_out, areas, trained.tiling, context)
    scores = all_scores(theirs, choose_threshold(ours), class_values(dataset))
    assert sum(len(area.true) for area in theirs) >= 3
    assert scores["object_f1_30"] >= 0.8
    assert scores["ap50"] >= 0.8
    assert chosen.least_px > 0


def test_components_become_objects_with_scores() -> None:
    probability = np.zeros((2, 20, 20), np.float32)
    probability[0, 2:6, 2:6] = 0.9
    probability[0, 10:12, 10:12] = 0.6
    probability[1, 6:9, 6:9] = 0.7  # touches the first at a corner, but is of another class
    found = Components(0.5, 1).objects(probability, [1, 4])
    assert [(part.label, part.pixels, round(part.score, 3)) for part in found] == [
        (1, 16, 0.9),
        (1, 4, 0.6),
        (4, 9, 0.7),
    ]
    assert [part.pixels for part in Components(0.5, 5).objects(probability, [1, 4])] == [16, 9]
    assert [part.pixels for part in Components(0.8, 1).objects(probability, [1, 4])] == [16]


def test_any_tile_size_is_mapped(tmp_path: Path) -> None:
    settings = PrepareSettings(
        data=write_sample(tmp_path / "scenes", seed=3, scenes=6, shape=(128, 128)),
        out=tmp_path,
        label_kind="instances",
        ignore=IGNORED,
        split=SplitSettings(train=0.4, val=0.3),
        cut=CutSettings(size=96, stride=96),
    )
    dataset = describe(settings)
    from geocore.transforms.normalize import Normalize

    assert dataset.statistics is not None
    bands = {"image": dataset.layers["image"].bands}
    network = SemanticNet(Normalize(dataset.statistics, bands), "resnet18", [1]).eval()
    assert network(torch.zeros(1, 6, 70, 50)).shape == (1, 2, 70, 50)
