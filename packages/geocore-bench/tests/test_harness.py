"""A run measures its own work, in a process of its own, and says what stood in its way."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import geocore_bench
from geocore_bench import child, harness
from geocore_bench.environments import OURS, PEERS, Environment, build, code_folder, interpreter
from geocore_bench.harness import BENCHMARKS, Case, Contender, Measured, watch
from geocore_bench.rounds import child_environment, spawn, take_turns

EVERYTHING = {environment.name for environment in PEERS} | {OURS}


def contender(name: str, environment: str = OURS) -> Contender:
    return Contender(name, environment, lambda setting, data: Measured(1.0))


def test_contenders_take_turns_in_every_round() -> None:
    case = Case("case", "s", None, (contender("a"), contender("b"), contender("c")), 3)
    records = list(take_turns(case, lambda one: {"value": 1.0, "details": {}}))
    assert [record["contender"] for record in records] == ["a", "b", "c"] * 3
    assert [record["round"] for record in records] == [0] * 3 + [1] * 3 + [2] * 3
    assert {record["case"] for record in records} == {"case"}


@pytest.mark.parametrize("outcome", [{"failed": "no memory"}, {"skipped": "no library"}, {}])
def test_a_contender_that_cannot_run_sits_out_the_other_rounds(outcome: dict[str, str]) -> None:
    case = Case("case", "s", None, (contender("a"), contender("b")), 3)
    records = list(take_turns(case, lambda one: outcome if one.name == "b" else {"value": 1.0, "details": {}}))
    assert [record["contender"] for record in records] == ["a", "b", "a", "a"]


def test_rounds_can_be_fewer_than_the_case_says() -> None:
    case = Case("case", "s", None, (contender("a"),), 5)
    assert len(list(take_turns(case, lambda one: {"value": 1.0, "details": {}}, repetitions=1))) == 1


def test_names_of_contenders_differ() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        Case("case", "s", None, (contender("a"), contender("a")))


def test_growth_is_what_the_work_held_and_not_what_was_there_before() -> None:
    before = np.ones(64 << 20, np.uint8)
    np.ones(256 << 20, np.uint8)  # a peak that is over
    with watch() as seen:
        held = np.ones(128 << 20, np.uint8)
    assert 120 <= seen.growth_mb <= 160, (before[0], held[0])


def test_memory_of_children_counts() -> None:
    hold = "import time; held = b'x' * (100 << 20); time.sleep(1.0)"
    with watch() as seen:
        subprocess.run([sys.executable, "-c", hold], check=True)
    assert 100 <= seen.growth_mb <= 180


def test_seconds_are_of_the_wall_and_cpu_seconds_of_the_processor() -> None:
    with watch() as seen:
        time.sleep(0.3)
        start = time.process_time()
        while time.process_time() - start < 0.2:
            pass
    # The clock of the processor may run a little ahead of that on the wall.
    assert seen.seconds >= 0.45
    assert 0.15 <= seen.cpu_seconds < seen.seconds


def test_cpu_seconds_of_children_that_ended_count() -> None:
    busy = "import time\nwhile time.process_time() < 0.4: pass"
    with watch() as seen:
        subprocess.run([sys.executable, "-c", busy], check=True)
    assert seen.cpu_seconds >= 0.35


def test_every_benchmark_can_be_listed_without_its_libraries(tmp_path: Path) -> None:
    listing = """
import json, sys
for name in ("torch", "rasterio", "geocore", "scipy", "shapely"):
    sys.modules[name] = None
from geocore_bench.harness import BENCHMARKS, load
# The one without a peer needs geocore's own environment.
cases = [case for name in BENCHMARKS if name != "correlation" for case in load(name).cases(False)]
print(json.dumps([[case.name, [one.environment for one in case.contenders]] for case in cases]))
"""
    environment = child_environment(os.environ, code_folder(tmp_path), 1)
    done = subprocess.run([sys.executable, "-c", listing], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) >= len(BENCHMARKS)
    assert {environment for _, used in found for environment in used} <= EVERYTHING


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_quick_and_full_have_the_same_cases_and_geocore_first(benchmark: str) -> None:
    cases = {quick: harness.load(benchmark).cases(quick) for quick in (True, False)}
    names = {quick: [(case.name, [one.name for one in case.contenders]) for case in cases[quick]] for quick in cases}
    assert names[True] == names[False]
    assert all(case.contenders[0].environment == OURS for case in cases[False])
    assert all(harness.case_of(benchmark, case.name, False) == case for case in cases[False])


def test_only_the_standard_library_is_imported_by_what_every_interpreter_reads() -> None:
    folder = Path(geocore_bench.__file__).parent
    for module in ("harness", "child", "rounds", "environments"):
        tree = ast.parse((folder / f"{module}.py").read_text("utf-8"))
        imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
        imported |= {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
        roots = {name.split(".")[0] for name in imported}
        assert roots - set(sys.stdlib_module_names) <= {"geocore_bench"}, module


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(ValueError, match="no benchmark 'speed': there are"):
        harness.load("speed")


def test_a_child_finds_this_package_and_nothing_beside_it(tmp_path: Path) -> None:
    code = code_folder(tmp_path)
    assert [path.name for path in code.iterdir()] == ["geocore_bench"]
    environment = child_environment({"PYTHONPATH": "/elsewhere", "PYTHONDONTWRITEBYTECODE": "1", "X": "1"}, code, 3)
    assert environment["PYTHONPATH"] == str(code)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["X"] == "1"
    assert "PYTHONDONTWRITEBYTECODE" not in environment


def test_a_process_tells_what_it_measured(tmp_path: Path) -> None:
    code = code_folder(tmp_path)
    words = ["run", "confusion", "2 classes", "geocore Confusion", str(tmp_path), "--quick"]
    told = spawn(Path(sys.executable), code, words, threads=1)
    assert told["value"] > 0
    assert 0.6 < told["details"]["mean_iou"] < 1


def test_a_process_tells_its_versions(tmp_path: Path) -> None:
    told = spawn(Path(sys.executable), code_folder(tmp_path), ["versions", "numpy", "no-such-thing"], threads=1)
    assert told == {"python": ".".join(map(str, sys.version_info[:3])), "numpy": np.__version__}


def test_a_process_that_dies_is_reported(tmp_path: Path) -> None:
    told = spawn(Path(sys.executable), code_folder(tmp_path), ["prepare", "speed", str(tmp_path)], threads=1)
    assert "no benchmark 'speed'" in told["failed"]


def test_a_process_that_hangs_is_killed(tmp_path: Path) -> None:
    (tmp_path / "geocore_bench").mkdir()
    (tmp_path / "geocore_bench" / "__init__.py").touch()
    (tmp_path / "geocore_bench" / "child.py").write_text("import time\ntime.sleep(60)\n")
    assert spawn(Path(sys.executable), tmp_path, [], threads=1, timeout_s=0.5) == {"failed": "not done after 0 s"}


def test_an_environment_that_is_not_there_is_skipped(tmp_path: Path) -> None:
    told = spawn(interpreter(tmp_path, "peers"), tmp_path, [], threads=1)
    assert "build the environment" in told["skipped"]


@pytest.mark.parametrize(
    ("error", "key"), [(ModuleNotFoundError("No module named 'peer'"), "skipped"), (RuntimeError("broke"), "failed")]
)
def test_errors_of_a_contender_are_told(
    error: Exception, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(setting: object, data: Path) -> Measured:
        raise error

    case = Case("case", "s", None, (Contender("a", OURS, measure),))
    monkeypatch.setattr(child, "case_of", lambda benchmark, name, quick: case)
    told = child.run("mapping", "case", "a", tmp_path, True)
    assert list(told) == [key]
    assert str(error) in told[key]


def test_an_environment_is_built_once_for_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def run(words: list[str], **_: object) -> None:
        called.append(words)
        interpreter(tmp_path, "peer").parent.mkdir(parents=True, exist_ok=True)
        interpreter(tmp_path, "peer").touch()

    # By its module, since the name is that of a package's module too.
    monkeypatch.setattr(importlib.import_module("geocore_bench.environments").subprocess, "run", run)
    build(tmp_path, Environment("peer", "3.12", ("a==1",)))
    build(tmp_path, Environment("peer", "3.12", ("a==1",)))
    assert len(called) == 2
    assert called[1][-1] == "a==1"
    build(tmp_path, Environment("peer", "3.12", ("a==2",)))
    assert len(called) == 4


def test_what_is_compared_is_pinned() -> None:
    pinned = {requirement.split("==")[0] for peer in PEERS for requirement in peer.requirements if "==" in requirement}
    assert {"torch", "rasterio", "terratorch", "torchgeo", "monai", "lightning", "geoai-py", "xarray"} <= pinned
    torch = {word for peer in PEERS for word in peer.requirements if word.startswith("torch==")}
    assert len(torch) == 1
