"""Entry points of the commands: they import next to nothing, so that Ctrl-C ends quietly from the first moment on."""

from __future__ import annotations

from typing import NoReturn

from geocore.interruptions import run_command


def prepare() -> NoReturn:
    """Run `seaice-prepare`."""
    run_command("seaice_multitask.prepare")


def train() -> NoReturn:
    """Run `seaice-train`."""
    run_command("seaice_multitask.train")


def evaluate() -> NoReturn:
    """Run `seaice-evaluate`."""
    run_command("seaice_multitask.evaluate")


def predict() -> NoReturn:
    """Run `seaice-predict`."""
    run_command("seaice_multitask.predict")
