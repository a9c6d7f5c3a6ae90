"""What a command is given, looked at before anything heavy is loaded: what is not there is said at once.

A check names the cause (no such folder, a run of another task, a map in place of a scene), where work that begins
without it would end in a symptom.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from geocore.errors import DataError, RunError
from geocore.jobs.job import CHANGED
from geocore.raster.paths import Location, as_path_or_url
from geocore.storage.documents import read_json
from geocore.storage.files import storage_errors
from geocore.storage.records import RECORD, read_calls, scenes_of
from geocore.storage.special_files import check_regular


def check_run(run: Path, task: str) -> None:
    """Refuse what is no training run of a task with something to use.

    Args:
        run: what was given as `--run`.
        task: name of the task, with which its commands begin.

    Raises:
        RunError: there is no such folder, or it holds something else, a run of another task, or nothing trained yet.
    """
    wanted = f"--run takes the folder of a run of {task}-train"
    if not run.exists():
        raise RunError(f"{run}: no such folder: {wanted}; check the path")
    held = _run_held(run)
    if held is None:
        raise RunError(f"{run}: {_other(run)}: {wanted}")
    if held != task:
        raise RunError(f"{run}: is a run of {held}, not of {task}: {wanted}")
    folder = run / "checkpoints"
    if not any(folder.glob("step-*")) and not (folder / "last").exists():
        raise RunError(f"{run}: nothing is trained there yet: train first with {task}-train --run {run}")


def check_prepared(data: Path | None, task: str) -> None:
    """Refuse what is no prepared data set; whether its files are what they were shows when it is loaded.

    Args:
        data: what was given as `--data`; None is the built-in sample, or the run's own data.
        task: name of the task.

    Raises:
        DataError: there is no such folder, or it holds no data set.
    """
    if data is None:
        return
    wanted = f"--data takes a data set that {task}-prepare made"
    if not data.exists():
        raise DataError(f"{data}: no such folder: {wanted}; check the path")
    if data.is_dir() and not (data / "dataset.yaml").exists():
        raise DataError(
            f"{data}: {_other(data)}: {wanted}; raw data are prepared first: {task}-prepare --data {data} --out DATASET"
        )


def check_inputs(inputs: Iterable[Location], output: Path, *, kind: str = "scene") -> None:
    """Refuse inputs that are not there or were mapped before, and a folder that cannot take maps.

    Args:
        inputs: what was given as `--input`.
        output: what was given as `--output`.
        kind: what an input is called.

    Raises:
        DataError: there is no such file or folder, or it is a map or a folder of maps.
        RunError: the output holds something else than maps.
        StorageError: the output is a file.
    """
    with storage_errors(output):
        if output.exists() and not output.is_dir():
            raise NotADirectoryError(20, "Not a directory", str(output))
    read_calls(output)
    for path in map(as_path_or_url, inputs):
        if not isinstance(path, Path):
            continue
        if not path.exists():
            raise DataError(f"{path}: no such {kind} or folder: give --input what is there; check the path")
        if not path.is_dir():
            try:
                check_regular(path)
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}: must be a readable {kind} or a folder; check it") from error
        if path.is_dir() and _holds_maps_alone(path):
            raise DataError(f"{path}: holds maps that were made before, no {kind}: give what they were made of")
        source = _mapped_from(path) if path.is_file() else None
        if source is not None:
            raise DataError(f"{path}: is a map made of {source}, no {kind}: give the {kind} itself")


def _run_held(folder: Path) -> str | None:
    """Task of the training run in a folder; None where there is none.

    What is trained says so itself, so that it can be scored and mapped with when `run.json` is damaged.
    """
    cards = sorted(folder.glob("checkpoints/step-*/card.json"), reverse=True)
    for path in (*cards, folder / RECORD):
        try:
            content = read_json(path, finite=False)
        except (OSError, ValueError):
            continue
        held = content.get("task") if isinstance(content, dict) else None
        if isinstance(held, str):
            return held
    return None


def _other(folder: Path) -> str:
    """What a folder is, of what was asked for something else."""
    if not folder.is_dir():
        return "is a file"
    if _run_held(folder) is not None:
        return "holds a training run"
    if (folder / "dataset.yaml").exists():
        return "holds a prepared data set"
    if (folder / RECORD).exists():
        return "holds maps"
    return "holds nothing" if not any(folder.iterdir()) else "holds something else"


def _mapped_from(path: Path) -> str | None:
    """Name of the scene that a file was made of, by the record beside it; None where it was not."""
    if path.suffix == ".vrt" and path.name.startswith("all_"):
        return "several scenes" if _products(path.parent) else None
    return _products(path.parent).get(path.name)


def _holds_maps_alone(folder: Path) -> bool:
    made = _products(folder)
    others = (entry.name for entry in folder.iterdir() if entry.name not in made and not entry.name.startswith("."))
    # What is written beside maps: joined maps, legends, the record, and maps that somebody had changed.
    return bool(made) and all(name == RECORD or name.endswith((".vrt", ".aux.xml", CHANGED)) for name in others)


def _products(folder: Path) -> dict[str, str]:
    """Name of each file that was mapped into a folder -> the scene that it was made of."""
    try:
        calls = read_calls(folder)
    except RunError:
        return {}
    return {
        f"{name}{ending}": name for call in calls for name in scenes_of(call) for ending in call.get("products", ())
    }
