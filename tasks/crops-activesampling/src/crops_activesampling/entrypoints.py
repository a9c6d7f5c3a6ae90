"""Entry points of the commands: they import next to nothing, so that Ctrl-C ends quietly from the first moment on."""

from __future__ import annotations

from typing import NoReturn

from geocore.interruptions import run_command


def medians() -> NoReturn:
    """Run `crops-medians`."""
    run_command("crops_activesampling.medians")


def split() -> NoReturn:
    """Run `crops-split`."""
    run_command("crops_activesampling.split")


def prepare() -> NoReturn:
    """Run `crops-prepare`."""
    run_command("crops_activesampling.prepare")


def train() -> NoReturn:
    """Run `crops-train`."""
    run_command("crops_activesampling.train")


def evaluate() -> NoReturn:
    """Run `crops-evaluate`."""
    run_command("crops_activesampling.evaluate")


def predict() -> NoReturn:
    """Run `crops-predict`."""
    run_command("crops_activesampling.predict")


def compare() -> NoReturn:
    """Run `crops-compare`."""
    run_command("crops_activesampling.compare")


def worldcereal() -> NoReturn:
    """Run `crops-worldcereal`."""
    run_command("crops_activesampling.worldcereal")
