"""The golden run: each task's built-in sample trained for some steps, mapped and scored, beside what stands in a file.

    geocore-bench golden --check [TASK ...] [--work FOLDER] [--file FILE]
    geocore-bench golden --store [TASK ...] [--work FOLDER] [--file FILE]

The guard of a change that must not change a result: names, folders and formats of files may be other ones, weights,
pixels, outlines and scores are equal bit by bit. The commands are run as a user runs them, by their console scripts, so
that nothing here knows what lies behind them; only what they write is read.

Equal are results of one set of versions and one kind of processor. One thread computes, on a CPU, and numerical
libraries are told to use no instructions beyond SSE 4.1 or the like, so that other processors of the family may be
expected to agree; the file says on which it was made.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from geocore_bench.results import machine

_STORED: Final = Path(__file__).with_name("golden.json")
_PLAIN: Final = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
}
_SAME: Final = _PLAIN | {"CUDA_VISIBLE_DEVICES": ""}
_CPU: Final = ("--device.device", "cpu", "--device.threads", "1")
_SECTIONS: Final = ("primary", "model", "untrained", "baselines", "per_class", "per_group", "intervals")
"""Of an evaluation: what was found, and nothing of when, where and from which files."""
_VERSIONS: Final = (
    "torch",
    "numpy",
    "scipy",
    "rasterio",
    "scikit-learn",
    "segmentation-models-pytorch",
    "timm",
    "sam2",
)


@dataclass(frozen=True, slots=True)
class Golden:
    """How a task's commands are run."""

    steps: int
    """Of training; one validation at the last."""
    scenes: str
    """Pattern of the sample's scenes below its folder."""
    without: str = ""
    """Scenes whose names end so are none."""
    train: tuple[str, ...] = ()
    """Further words for the train command."""
    predict: tuple[str, ...] = ()
    """Further words for the predict command."""


GOLDEN: Final = {
    "snowpack": Golden(4, "**/*.tif", "_mask", predict=("--cm-per-px", "0.1")),
    "slumps": Golden(6, "**/*.tif", "_instances", train=("--baseline.steps", "4"), predict=("--threshold", "0.01")),
    "seaice": Golden(12, "**/*_prep.nc"),
    "floods": Golden(8, "**/*_S2Hand.tif", train=("--baseline.steps", "4"), predict=("--flips", "true")),
    "crops": Golden(10, "**/*.nc"),
}
"""Task -> its golden run."""


def main(words: Sequence[str]) -> None:
    """Run, and compare or store.

    Args:
        words: of the command line, behind `golden`.
    """
    parser = argparse.ArgumentParser(prog="geocore-bench golden", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(GOLDEN)}; none: all of them")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="compare with the file; exit code 1 where it differs")
    action.add_argument("--store", action="store_true", help="write what was found into the file")
    parser.add_argument("--work", type=Path, default=None, help="folder to work in, kept; none: a temporary one")
    parser.add_argument("--file", type=Path, default=_STORED, help="file of the results; none: the packaged one")
    given = parser.parse_args(words)
    unknown = [task for task in given.tasks if task not in GOLDEN]
    if unknown:
        parser.error(f"no task {', '.join(unknown)}: there are {', '.join(GOLDEN)}")
    held: dict[str, Any] = json.loads(given.file.read_text()) if given.file.exists() else {}
    if given.check and not held:
        parser.error(f"{given.file} is not there: make it with --store")
    with tempfile.TemporaryDirectory(prefix="geocore-golden-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        found = {task: run(task, work) for task in given.tasks or GOLDEN}
    if given.store:
        made_on = {"machine": machine(), "versions": versions()}
        tasks = held.get("tasks", {}) | found
        given.file.write_text(json.dumps({"made_on": made_on, "tasks": tasks}, indent=1, sort_keys=True) + "\n")
        print(f"{given.file}: {', '.join(found)}")
        return
    unequal = [line for task, results in found.items() for line in differences(task, held["tasks"].get(task), results)]
    for line in unequal:
        print(line)
    if unequal and held["made_on"] != (now := {"machine": machine(), "versions": versions()}):
        print(f"the file was made on another machine or with other versions: {held['made_on']}; now {now}")
    print(f"{', '.join(found)}: {f'{len(unequal)} differing' if unequal else 'equal bit by bit'}")
    sys.exit(1 if unequal else 0)


def run(task: str, work: Path) -> dict[str, Any]:
    """Train, map and score the sample of a task.

    Args:
        task: its name.
        work: folder of samples, run and maps.

    Returns:
        `weights`, `scores`, `evaluation` and `products`: hashes, and scores as they are.
    """
    golden, place, cache = GOLDEN[task], work / task, work / "cache"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    fitted, maps = place / "run", place / "maps"
    rhythm = ("--training.validate-every", "--training.checkpoint-every", "--training.steps")
    words = ["--schedule.warmup-steps", "2", *(word for flag in rhythm for word in (flag, str(golden.steps)))]
    command(f"{task}-train", ["--run", str(fitted), *words, *_CPU, *golden.train], cache, _SAME)
    command(f"{task}-evaluate", ["--run", str(fitted), "--resamples", "50", *_CPU], cache, _SAME)
    sample = sample_of(task, cache)
    scenes = [
        path
        for path in sorted(sample.glob(golden.scenes))
        if not (golden.without and path.stem.endswith(golden.without))
    ]
    inputs = ["--input", str(scenes[0]), str(scenes[-1])]
    command(
        f"{task}-predict", ["--run", str(fitted), *inputs, "--output", str(maps), *_CPU, *golden.predict], cache, _SAME
    )
    held = json.loads((fitted / "evaluation-test.json").read_text())
    weights = sorted(fitted.glob("checkpoints/*/model.safetensors"))[-1]
    return {
        "weights": weights_digest(weights),
        "scores": held["model"],
        "evaluation": _hash(json.dumps([held[name] for name in _SECTIONS], sort_keys=True).encode()),
        "products": dict(product_digests(maps)),
    }


def differences(task: str, held: Mapping[str, Any] | None, found: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two results of a task, a line each."""
    if held is None:
        yield f"{task}: the file knows nothing of it"
        return
    for name in ("weights", "evaluation"):
        if held[name] != found[name]:
            yield f"{task}: another {name}"
    for section in ("scores", "products"):
        before, now = held[section], found[section]
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                yield f"{task}: {name} was {before.get(name, 'not there')}, is {now.get(name, 'not there')}"


def weights_digest(path: Path) -> str:
    """Hash of the tensors of a file of weights; what they are called does not count, since renaming is no change."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    return _hash_all(f"{values.dtype} {values.shape} {_hash(values.tobytes())}" for values in tensors.values())


def product_digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and hash of what the products of a map hold, without what their headers say of the making.

    Rasters: values and where they lie. Polygons: geometries and attributes, whatever the columns are called. netCDF:
    the variables. Tables: their bytes. Pictures, reports and records are not looked at.
    """
    readers = {".tif": _raster_digest, ".parquet": _polygons_digest, ".nc": _netcdf_digest, ".csv": _bytes_digest}
    for path in sorted(folder.iterdir()):
        if path.suffix in readers:
            yield path.name, readers[path.suffix](path)


def _raster_digest(path: Path) -> str:
    import rasterio

    with rasterio.open(path) as raster:
        where = (raster.crs and raster.crs.to_wkt(), tuple(raster.transform), raster.nodatavals, raster.dtypes)
        return _hash(repr(where).encode() + raster.read().tobytes())


def _polygons_digest(path: Path) -> str:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return _hash_all(_hash(repr(column.to_pylist()).encode()) for column in table.columns)


def _netcdf_digest(path: Path) -> str:
    import h5netcdf

    with h5netcdf.File(path, "r") as file:
        return _hash_all(f"{name} {_hash(file[name][...].tobytes())}" for name in file.variables)


def _bytes_digest(path: Path) -> str:
    return _hash(path.read_bytes())


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def sample_of(task: str, cache: Path) -> Path:
    """The folder of a task's sample: the latest, since a kept cache may hold those of earlier code."""
    return max(cache.glob(f"{task}-sample-*"), key=lambda path: path.stat().st_mtime_ns)


def command(name: str, words: Sequence[str], cache: Path, variables: Mapping[str, str] | None = None) -> None:
    """Run a console script of this environment, which a line on the terminal tells.

    Args:
        name: of the script.
        words: behind it.
        cache: folder of built-in samples.
        variables: of the environment, added to those that there are.

    Raises:
        SystemExit: it is not there or fails; with its own last words.
    """
    script = Path(sys.executable).with_name(name)
    if not script.exists():
        raise SystemExit(f"{script} is not there: the tasks have to be installed in this environment")
    print(f"{name} {' '.join(words)}", flush=True)
    environment = {**os.environ, "GEOCORE_CACHE": str(cache), **(variables or {})}
    done = subprocess.run([str(script), *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def _hash_all(lines: Iterable[str]) -> str:
    """Hash of lines in any order."""
    return _hash("\n".join(sorted(lines)).encode())
