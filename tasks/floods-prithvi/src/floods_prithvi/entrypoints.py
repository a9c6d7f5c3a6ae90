"""Entry points of the commands: they import next to nothing, so that Ctrl-C ends quietly from the first moment on."""

from __future__ import annotations

from typing import NoReturn

from geocore.interruptions import run_command


def prepare() -> NoReturn:
    """Run `floods-prepare`."""
    run_command("floods_prithvi.prepare")


def train() -> NoReturn:
    """Run `floods-train`."""
    run_command("floods_prithvi.train")


def evaluate() -> NoReturn:
    """Run `floods-evaluate`."""
    run_command("floods_prithvi.evaluate")


def predict() -> NoReturn:
    """Run `floods-predict`."""
    run_command("floods_prithvi.predict")


def import_published() -> NoReturn:
    """Run `floods-import`."""
    run_command("floods_prithvi.published")
