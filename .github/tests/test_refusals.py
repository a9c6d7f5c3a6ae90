"""What is not there is said at once: torch, which takes seconds to load, is not loaded for it."""

import subprocess
import sys

import pytest

PREFIXES = {
    "snowpack": "snowpack_sam2",
    "slumps": "slumps_detectron2",
    "floods": "floods_prithvi",
    "seaice": "seaice_multitask",
    "crops": "crops_activesampling",
}
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
from importlib import import_module
try:
    import_module(sys.argv[0]).main()
except SystemExit as left:
    print(left.code, "torch" in sys.modules)
"""


def answer(module, *words):
    """Exit code, whether torch was loaded, and the line of the refusal."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, module, *map(str, words)], capture_output=True, text=True, timeout=60, check=True
    )
    code, loaded = done.stdout.split()
    return int(code), loaded == "True", done.stderr


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("evaluate", ["--run", "nowhere"], "nowhere: no such folder: --run takes"),
        (
            "predict",
            ["--run", "nowhere", "--input", "here", "--output", "there"],
            "nowhere: no such folder: --run takes",
        ),
        ("train", ["--data", "nowhere"], "nowhere: no such folder: --data takes"),
    ],
)
def test_a_missing_folder_is_said_without_torch(tmp_path, prefix, verb, words, said):
    code, loaded, line = answer(f"{PREFIXES[prefix]}.{verb}", *words)
    assert (code, loaded) == (2, False)
    assert line.startswith("error: ") and said in line and line.count("\n") == 1


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_missing_scene_is_said_without_torch(tmp_path, prefix):
    (tmp_path / "run/checkpoints/step-000001").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text(f'{{"task": "{prefix}"}}')
    words = ["--run", tmp_path / "run", "--input", tmp_path / "nowhere", "--output", tmp_path / "maps"]
    code, loaded, line = answer(f"{PREFIXES[prefix]}.predict", *words)
    assert (code, loaded) == (2, False)
    assert f"{tmp_path}/nowhere: no such" in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("prefix", "words", "said"),
    [
        ("floods", ["--mask", "SCL"], "SCL"),
        ("floods", ["--date", "2021-13-01"], "'2021-13-01' is no date: give YYYY-MM-DD"),
        ("slumps", ["--mask", "SCL"], "SCL"),
        ("slumps", ["--threshold", "2"], "threshold = 2"),
    ],
)
def test_a_bad_mask_date_or_setting_is_said_without_torch(tmp_path, prefix, words, said):
    (tmp_path / "run/checkpoints/step-000001").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text(f'{{"task": "{prefix}"}}')
    (tmp_path / "a.tif").touch()
    given = ["--run", tmp_path / "run", "--input", tmp_path / "a.tif", "--output", tmp_path / "maps"]
    code, loaded, line = answer(f"{PREFIXES[prefix]}.predict", *given, *words)
    assert (code, loaded) == (2, False)
    assert said in line and line.count("\n") == 1
