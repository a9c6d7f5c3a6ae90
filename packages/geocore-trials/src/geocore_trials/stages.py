"""The smallest stage on which every command of every task can be tried: its data, its words, and where it writes.

A stage is made by the commands themselves, each in a child: raw data drawn by the task's own sample code, then what a
command needs from those before it. Each command on trial writes to one folder of its own, at the same path in every
trial, since some files hold paths.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from geocore_trials.children import Ending, Work, entry_point, forked

PACKAGES: Final = {
    "snowpack": "snowpack_sam2",
    "slumps": "slumps_detectron2",
    "seaice": "seaice_multitask",
    "floods": "floods_prithvi",
    "crops": "crops_activesampling",
}
"""Task -> its package."""
_CPU: Final = ("--device.device", "cpu", "--device.threads", "1")
_STEPS: Final = (
    *("--training.steps", "2", "--training.checkpoint-every", "1", "--training.validate-every", "2"),
    *("--training.batch-size", "2", *_CPU),
)
_TRAINING: Final = {
    "snowpack": ("--tiling.size", "96", "--tiling.overlap", "32", *_STEPS),
    "slumps": (
        *("--model.depth", "18", "--model.detections-per-tile", "10"),
        *("--model.anchors-px", "8", "16", "32", "64", "96"),
        *("--tiling.size", "96", "--tiling.overlap", "32", "--baseline.steps", "2", "--baseline.batch-size", "2"),
        *_STEPS,
    ),
    "seaice": (
        *("--model.widths", "4", "8", "--tiling.size", "32", "--tiling.overlap", "8", "--patches-per-epoch", "8"),
        *_STEPS,
    ),
    "floods": (
        *("--model.variant", "v2-tiny", "--model.head", "unet", "--tiling.size", "48", "--tiling.overlap", "16"),
        *("--patches-per-epoch", "4", "--baseline.steps", "2", "--baseline.batch-size", "2", *_STEPS),
    ),
    "crops": (
        *("--model.kind", "convstar", "--model.hidden", "8", "--model.layers", "1", "--model.months", "4..9"),
        *("--tiling.size", "32", "--tiling.overlap", "8", *_STEPS),
    ),
}
_BANDS: Final = ("B03", "B04", "B08", "B11")
_PREPARING: Final = {
    "snowpack": ("--pit", "^(.+)_", "--nodata", "0"),
    "slumps": (
        *("--label-kind", "instances", "--ignore", "4294967295", "--cut.size", "96", "--cut.stride", "96"),
        *("--split.train", "0.4", "--split.val", "0.3"),
    ),
    "seaice": ("--working.downscale", "2", "--patch", "32", "--split.train", "0.5", "--split.val", "0.25"),
    "floods": (),
    "crops": ("--split.rules", "sample", "--subpatch", "24", "--composites.bands", *_BANDS),
}
_PREDICTING: Final = {
    "snowpack": ("--cm-per-px", "0.1", "--threshold", "0.05"),
    "slumps": ("--threshold", "0.05"),
    "seaice": (),
    "floods": (),
    "crops": (),
}
OTHERWISE: Final = {
    "snowpack": ("--threshold", "0.2"),
    "slumps": ("--threshold", "0.3"),
    "seaice": ("--flips", "true"),
    "floods": ("--flips", "true"),
    "crops": ("--checkpoint", "step-000001"),
}
"""Task -> settings of its predict command that make other products."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command on trial."""

    name: str
    """Of the console script."""
    words: tuple[str, ...]
    output: Path
    """The folder that it writes into; absent before it runs unless `before` is given."""
    before: Path | None = None
    """What the folder holds before."""
    inputs: tuple[Path, ...] = ()
    """Files that it reads, beside what it keeps."""
    placed: tuple[tuple[Path, Path], ...] = ()
    """Folders that it reads and that may be damaged -> what they are copies of."""

    @property
    def task(self) -> str:
        """The task that it belongs to."""
        return self.name.partition("-")[0]

    @property
    def verb(self) -> str:
        """What it does."""
        return self.name.partition("-")[2]

    @property
    def work(self) -> Work:
        """What a child does to run it."""
        return entry_point(console_script(self.name), self.name, self.words)

    def reset(self) -> None:
        """Put the folder into the state before the command runs for the first time."""
        remove(self.output)
        if self.before is not None:
            shutil.copytree(self.before, self.output, symlinks=True)
        for place, source in self.placed:
            remove(place)
            shutil.copytree(source, place, symlinks=True)

    def run(self, logs: Path, **options: Any) -> Ending:
        """Run it in a child; options as for `forked`."""
        return forked(self.work, logs, **options)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the commands of one task are tried on."""

    task: str
    home: Path
    commands: dict[str, Command] = field(default_factory=dict)
    """Name of the console script -> the command."""

    @property
    def raw(self) -> Path:
        """Folder of the raw data."""
        return self.home / "raw"

    @property
    def dataset(self) -> Path:
        """Folder of the prepared data set."""
        return self.home / "dataset"

    @property
    def run(self) -> Path:
        """Folder of a finished run."""
        return self.home / "run"

    @property
    def scenes(self) -> list[Path]:
        """What is mapped: two of the raw scenes."""
        return _SCENES[self.task](self.raw)[:2]


class StageError(Exception):
    """A stage cannot be made: a command fails undisturbed."""


def console_scripts() -> dict[str, str]:
    """Every command of the tasks -> `module:function`, as the installed packages declare them."""
    own = tuple(f"{task}-" for task in PACKAGES)
    found = {point.name: point.value for point in entry_points(group="console_scripts") if point.name.startswith(own)}
    return {name: found[name] for name in sorted(found) if found[name].split(".")[0] in PACKAGES.values()}


def console_script(name: str) -> Callable[[], Any]:
    """The function of a console script."""
    module, _, function = console_scripts()[name].partition(":")
    main: Callable[[], Any] = getattr(importlib.import_module(module), function)
    return main


def warm_up(tasks: tuple[str, ...] = tuple(PACKAGES)) -> None:
    """Import what the commands import, once, with one thread for every library."""
    os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg"})
    import torch

    torch.set_num_threads(1)
    for package in ("geocore", *(PACKAGES[task] for task in tasks)):
        found = importlib.import_module(package)
        for module in pkgutil.iter_modules(found.__path__, f"{package}."):
            # The wrapper of detectron2 imports what is not on PyPI; a sample command never needs it.
            if not module.name.endswith((".detectron", ".clusters")):
                importlib.import_module(module.name)
    for name in ("tensorboard", "torch.utils.tensorboard", "matplotlib.figure", "geopandas", "sklearn.ensemble"):
        importlib.import_module(name)
    _shrink_trees()


def make_stage(task: str, home: Path) -> Stage:
    """Draw the data of a task and prepare what its commands need.

    Args:
        task: name of a task.
        home: folder of the stage, without one or empty.

    Raises:
        StageError: a command fails.
    """
    stage = Stage(task, home)
    home.mkdir(parents=True, exist_ok=True)
    logs = home / "logs"

    def do(name: str, work: Work) -> None:
        ending = forked(work, logs, timeout_s=600)
        if ending.code:
            raise StageError(f"{name} ends with {ending.code} undisturbed: {ending.err.strip()[-2000:]}")

    do(f"the sample of {task}", lambda: _DRAWN[task](stage.raw))
    trial = home / "trial"
    data = _data_of(stage)
    prepare = Command(
        f"{task}-prepare",
        ("--data", str(data), "--out", str(trial / "prepare"), *_PREPARING[task]),
        trial / "prepare",
        inputs=tuple(_SCENES[task](stage.raw)),
    )
    main = console_script(prepare.name)
    words = ("--data", str(data), "--out", str(stage.dataset), *_PREPARING[task])
    do(prepare.name, entry_point(main, prepare.name, words))
    train = Command(
        f"{task}-train",
        ("--data", str(stage.dataset), "--run", str(trial / "train"), *_TRAINING[task]),
        trial / "train",
    )
    words = ("--data", str(stage.dataset), "--run", str(stage.run), *_TRAINING[task])
    do(train.name, entry_point(console_script(train.name), train.name, words))
    resamples = ("--resamples", "20") if task != "snowpack" else ()
    evaluate = Command(
        f"{task}-evaluate",
        ("--run", str(trial / "evaluate"), *resamples, *_CPU),
        trial / "evaluate",
        before=stage.run,
    )
    predict = predict_command(stage, trial / "predict")
    stage.commands.update({command.name: command for command in (prepare, train, evaluate, predict)})
    if task == "crops":
        _add_crops(stage, trial, do)
    if task == "floods":
        _add_floods(stage, trial, do)
    return stage


def predict_command(stage: Stage, output: Path, *more: str) -> Command:
    """The predict command of a stage, with further settings."""
    scenes = stage.scenes
    words = ("--run", str(stage.run), "--input", *map(str, scenes), "--output", str(output))
    words = (*words, *_PREDICTING[stage.task], *_CPU, *more)
    return Command(f"{stage.task}-predict", words, output, inputs=tuple(scenes))


def remove(path: Path) -> None:
    """Remove a file or a folder, one without write permission too."""
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o755)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _data_of(stage: Stage) -> Path:
    return stage.raw / "pairs.csv" if stage.task == "slumps" else stage.raw


def _add_crops(stage: Stage, trial: Path, do: Callable[[str, Work], None]) -> None:
    other = stage.home / "run-other"
    words = ("--data", str(stage.dataset), "--run", str(other), *_TRAINING["crops"], "--training.seed", "1")
    do("crops-train", entry_point(console_script("crops-train"), "crops-train", words))
    do("cubes", lambda: _draw_cubes(stage.home / "cubes"))
    rules = ("--data", str(stage.raw), "--split.rules", "sample")
    composites = ("--data", str(stage.raw), "--composites.bands", *_BANDS)
    given = {
        "crops-medians": (*composites, "--out", str(trial / "medians")),
        "crops-split": (*rules, "--out", str(trial / "split")),
        "crops-compare": ("--runs", str(stage.run), str(other), "--out", str(trial / "compare")),
        "crops-worldcereal": ("--data", str(stage.home / "cubes"), "--out", str(trial / "worldcereal")),
    }
    for name, words in given.items():
        inputs = sorted((stage.home / "cubes").rglob("*.nc")) if name == "crops-worldcereal" else []
        stage.commands[name] = Command(name, words, Path(words[-1]), inputs=tuple(inputs))


def _add_floods(stage: Stage, trial: Path, do: Callable[[str, Work], None]) -> None:
    weights = stage.home / "released.pth"
    do("published weights", lambda: _draw_published(weights))
    words = ("--weights", str(weights), "--published", "sen1floods11", "--run", str(trial / "import"))
    stage.commands["floods-import"] = Command("floods-import", words, trial / "import", inputs=(weights,))


def _draw_published(path: Path) -> None:
    import torch

    from floods_prithvi.config import TrainSettings
    from floods_prithvi.published import PUBLISHED, network_of

    torch.manual_seed(3)
    each = PUBLISHED["sen1floods11"]
    net = network_of(each, TrainSettings.model_validate(dict(each.settings))).eval()
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("normalize.")}
    state["backbone.pos_embed"] = net.backbone.pos_embed
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, path)


def _draw_cubes(folder: Path) -> None:
    """Two sites in the layout of WorldCereal."""
    import h5netcdf
    import numpy as np

    for number in range(2):
        site = folder / f"site-{number}"
        site.mkdir(parents=True)
        types = np.repeat([[1110, 0], [9120, 1200]], 6, axis=0).repeat(6, axis=1)
        with h5netcdf.File(site / f"OUTPUT_{number}.nc", "w") as file:
            file.dimensions = {"y": 12, "x": 12}
            variable = file.create_variable("CT", ("y", "x"), data=types.astype(np.uint16))
            variable.attrs.update({"epsg": "32631", "tile": "31UES", "source": "2019_BE_LPIS"})
            x, y = 574_685.0 + number * 7320, 5_622_435.0
            file.create_variable("x", ("x",), data=x + 10.0 * np.arange(12))
            file.create_variable("y", ("y",), data=y - 10.0 * np.arange(12))
        for bands, size in ((("B02", "B08"), 12), (("B05", "B11"), 6)):
            with h5netcdf.File(site / f"S2_L2A_{120 // size}m_{number}.nc", "w") as file:
                file.dimensions = {"timestamp": 3, "y": size, "x": size}
                days = np.array([0, 200, 210])
                time = file.create_variable("timestamp", ("timestamp",), data=days * 86_400)
                time.attrs["units"] = "seconds since 2018-08-04 10:50:22"
                time.attrs["calendar"] = "proleptic_gregorian"
                for band in bands:
                    values = 1 + np.arange(3 * size * size, dtype=np.uint16).reshape(3, size, size)
                    file.create_variable(band, ("timestamp", "y", "x"), data=values).attrs["scale_factor"] = 1e-4


def _shrink_trees() -> None:
    """Baselines and published networks at a size for trials: what they keep is the same, in less time."""
    import dataclasses

    from crops_activesampling import baselines
    from floods_prithvi import published

    baselines.GROWTHS = ((4, 0.3, 3),)  # type: ignore[misc, assignment]
    smallest = {"variant": "v2-tiny", "auxiliary": 1.0}
    published.PUBLISHED = {  # type: ignore[misc]
        name: dataclasses.replace(each, settings={**each.settings, "model": smallest})
        for name, each in published.PUBLISHED.items()
    }


def _draw_snowpack(folder: Path) -> None:
    from snowpack_sam2.sample import write_sample

    write_sample(folder, seed=3, pits=3, photos_per_pit=1, shape=(160, 176))


def _draw_slumps(folder: Path) -> None:
    from slumps_detectron2.sample import write_sample

    write_sample(folder, seed=3, scenes=6, shape=(128, 144))


def _draw_seaice(folder: Path) -> None:
    from seaice_multitask.sample import write_sample

    write_sample(folder, seed=3, scenes=5, shape=(150, 165))


def _draw_floods(folder: Path) -> None:
    from floods_prithvi.sample import write_sample

    write_sample(folder, seed=3, size=64, counts={"train": 1, "valid": 1, "test": 1, "bolivia": 2})


def _draw_crops(folder: Path) -> None:
    from crops_activesampling.sample import write_sample

    write_sample(folder, seed=3, size=48, train=1, val=1, test=1, bands=_BANDS)


_DRAWN: Final = {
    "snowpack": _draw_snowpack,
    "slumps": _draw_slumps,
    "seaice": _draw_seaice,
    "floods": _draw_floods,
    "crops": _draw_crops,
}
_SCENES: Final[dict[str, Callable[[Path], list[Path]]]] = {
    "snowpack": lambda raw: [path for path in sorted(raw.glob("*.tif")) if not path.stem.endswith("_mask")],
    "slumps": lambda raw: [path for path in sorted(raw.glob("*.tif")) if not path.stem.endswith("_instances")],
    "seaice": lambda raw: sorted(raw.glob("*_prep.nc")),
    "floods": lambda raw: sorted(raw.rglob("*_S2Hand.tif")),
    "crops": lambda raw: sorted(raw.rglob("*.nc")),
}
