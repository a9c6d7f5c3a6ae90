"""Built-in samples on a disk that takes no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geocore_trials.stages import PACKAGES

CODE = """
import importlib, resource, sys
from geocore.cli.main import command
from geocore.settings import Settings
load = importlib.import_module(sys.argv[1] + ".data").load_dataset
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
command(lambda settings: load(None), Settings, prog="sample", argv=[])
"""


@pytest.mark.parametrize("task", PACKAGES)
def test_without_room_for_it_a_sample_ends_in_one_line_and_leaves_nothing(task: str, tmp_path: Path) -> None:
    environment = os.environ | {"GEOCORE_CACHE": str(tmp_path)}
    words = [sys.executable, "-c", CODE, PACKAGES[task].replace("-", "_")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    # libtiff says a word of its own, which nothing but the closing of its terminal could keep back.
    lines = [line for line in done.stderr.splitlines() if "drawing" not in line and "_tiffWriteProc" not in line]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: ") and lines[0].endswith(("elsewhere", "raise the limit"))
    assert list(tmp_path.iterdir()) == []
