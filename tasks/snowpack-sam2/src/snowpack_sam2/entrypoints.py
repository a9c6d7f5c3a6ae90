"""Entry points of the commands: they import next to nothing, so that Ctrl-C ends quietly from the first moment on."""

from __future__ import annotations

from typing import NoReturn

from geocore.interruptions import run_command


def prepare() -> NoReturn:
    """Run `snowpack-prepare`."""
    run_command("snowpack_sam2.prepare")


def train() -> NoReturn:
    """Run `snowpack-train`."""
    run_command("snowpack_sam2.train")


def evaluate() -> NoReturn:
    """Run `snowpack-evaluate`."""
    run_command("snowpack_sam2.evaluate")


def predict() -> NoReturn:
    """Run `snowpack-predict`."""
    run_command("snowpack_sam2.predict")
