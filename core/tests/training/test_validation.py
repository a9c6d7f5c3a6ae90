"""A split that cannot choose a checkpoint is told of, and refused before any work."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from geocore.errors import DataError
from geocore.settings import TrainingSettings
from geocore.training.validation import cannot_choose, require_choice, told_by_prepare, unseen


@pytest.mark.parametrize(
    ("counts", "needed", "reason"),
    [
        ({"land": 9, "water": 1}, ["water"], None),
        ({"land": 9, "water": 0}, ["water"], "val has no water"),
        ({"land": 0, "water": 3}, ["water"], "val holds nothing but water"),
        ({"land": 0, "water": 0}, ["water"], "val has no labelled pixel"),
        ({"wheat": 1, "barley": 0, "oats": 2}, [], None),
        ({"wheat": 0, "barley": 0, "oats": 2}, [], "val holds nothing but oats"),
        ({"slump": 0}, ["slump"], "val has no slump"),
        ({"slump": 1}, ["slump"], None),
    ],
)
def test_a_split_without_what_is_scored_or_with_nothing_else_cannot_choose(counts, needed, reason):
    assert cannot_choose("val", counts, needed=needed) == reason


def test_classes_that_are_trained_but_not_validated_are_named():
    trained = {"wheat": 5, "barley": 1, "oats": 0}
    assert unseen("val", {"wheat": 3, "barley": 0, "oats": 0}, trained).startswith("val has no barley: ")
    assert unseen("val", {"wheat": 3, "barley": 1, "oats": 0}, trained) is None


def test_prepare_tells_of_it_in_one_line():
    assert told_by_prepare(None, "floods-train") == []
    (line,) = told_by_prepare("val has no water", "floods-train")
    assert line.startswith("val has no water, so that") and "--split.seed" in line and "floods-train" in line


def test_train_refuses_it_unless_the_last_checkpoint_is_asked_for(caplog):
    caplog.set_level(logging.INFO, "geocore")

    def ask(reason, choose):
        require_choice(reason, root=Path("DS"), primary="iou_water", training=TrainingSettings(choose=choose))

    ask(None, "score")
    assert caplog.records == []
    with pytest.raises(DataError, match=r"^DS: val has no water, so that iou_water cannot .* --training.choose last$"):
        ask("val has no water", "score")
    ask("val has no water", "last")
    (record,) = caplog.records
    assert "val has no water" in record.message and "the last checkpoint is the best one" in record.message
