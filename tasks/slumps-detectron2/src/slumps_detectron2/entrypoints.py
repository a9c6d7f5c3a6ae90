"""Entry points of the commands: they import next to nothing, so that Ctrl-C ends quietly from the first moment on."""

from __future__ import annotations

from typing import NoReturn

from geocore.interruptions import run_command


def prepare() -> NoReturn:
    """Run `slumps-prepare`."""
    run_command("slumps_detectron2.prepare")


def train() -> NoReturn:
    """Run `slumps-train`."""
    run_command("slumps_detectron2.train")


def evaluate() -> NoReturn:
    """Run `slumps-evaluate`."""
    run_command("slumps_detectron2.evaluate")


def predict() -> NoReturn:
    """Run `slumps-predict`."""
    run_command("slumps_detectron2.predict")
