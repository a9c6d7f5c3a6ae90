"""Settings that several commands share, as frozen pydantic models.

A setting either decides the result (learning rate, seed, tile size) or is operational (device, threads, how often a
line is logged). A run folder holds one set of deciding settings; operational ones may change when it is resumed. A
setting that nobody marked counts as deciding, so that forgetting the mark can refuse a resume but never mix two runs.

This module imports neither torch nor rasterio: commands load it before they print their help.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from geocore.errors import WeightsError


class Settings(BaseModel):
    """Base of every group of settings: unknown keys are refused, values do not change once loaded.

    Numbers are finite, and whole ones have 64 bits; `AnyNumber` may be NaN or infinite.

    A group that is given in part keeps the other defaults of the class that holds it, which may differ from those of
    the group by itself: with `tiling: TilingSettings = TilingSettings(size=512, overlap=128)`, `{"tiling": {"size":
    256}}` leaves the overlap at 128.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _numbers_of_64_bits(cls, value: Any) -> Any:
        # Whatever a setting goes to, numpy, torch or GDAL, holds no larger ones.
        if any(isinstance(number, int) and not -(1 << 63) <= number < 1 << 63 for number in _members(value)):
            raise ValueError("must be a number of 64 bits, below 9.2e18")
        return value

    @model_validator(mode="before")
    @classmethod
    def _groups_keep_their_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        return {
            name: _completed(value, fields[name].default) if name in fields else value for name, value in values.items()
        }


AnyNumber = Annotated[float, AllowInfNan(True)]
"""A number that may be NaN or infinite, such as one that stands for missing values."""


def _members(value: Any) -> Iterable[Any]:
    """What a setting holds, itself where it is no table and no list."""
    if isinstance(value, Mapping):
        return [member for pair in value.items() for member in pair]
    return value if isinstance(value, list | tuple) else (value,)


def _completed(given: Any, default: Any) -> Any:
    """What was given of a group, with the defaults of the rest; a table, also one of groups, stands as it was given."""
    if not isinstance(given, Mapping) or not isinstance(default, Settings):
        return given
    known = {name: getattr(default, name) for name in type(default).model_fields}
    return known | {name: _completed(value, known.get(name)) for name, value in given.items()}


def deciding(
    default: Any,
    help: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    min_length: int | None = None,
    short: str | None = None,
) -> Any:
    """Declare a setting that decides the result.

    Args:
        default: its default; `...` where the user has to give a value.
        help: what the setting means and its unit, as shown by `--help`.
        gt: exclusive lower bound.
        ge: inclusive lower bound.
        lt: exclusive upper bound.
        le: inclusive upper bound.
        min_length: fewest characters or entries.
        short: second, short flag on the command line, such as "-o".

    Returns:
        The field declaration, to be assigned in a class body. Typed as `Any` like pydantic's own `Field`.
    """
    return Field(
        default,
        description=help,
        gt=gt,
        ge=ge,
        lt=lt,
        le=le,
        min_length=min_length,
        json_schema_extra=_extra("deciding", short),
    )


def operational(
    default: Any,
    help: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    min_length: int | None = None,
    short: str | None = None,
) -> Any:
    """Declare a setting that may change between two starts of one run: where, how fast and how loudly it runs.

    On a whole group of settings it makes the group operational, whatever its members say. Arguments as
    `deciding`, but for upper bounds.
    """
    return Field(
        default,
        description=help,
        gt=gt,
        ge=ge,
        min_length=min_length,
        json_schema_extra=_extra("operational", short),
    )


def _extra(role: str, short: str | None) -> dict[str, JsonValue]:
    return {"role": role} if short is None else {"role": role, "short": short}


def deciding_values(settings: Settings) -> dict[str, JsonValue]:
    """Keep the settings that decide the result, nested as they are declared, as JSON values."""
    kept: dict[str, JsonValue] = {}
    dumped = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("role") == "operational":
            continue
        value = getattr(settings, name)
        kept[name] = deciding_values(value) if isinstance(value, Settings) else dumped[name]
    return kept


def differences(held: JsonValue, wanted: JsonValue, key: str = "") -> Iterator[str]:
    """Yield `key is held there, wanted now` for each value that differs.

    Args:
        held: nested JSON values as they were kept.
        wanted: those of now.
        key: dotted name of both.
    """
    if isinstance(held, dict) and isinstance(wanted, dict):
        for name in [*wanted, *(name for name in held if name not in wanted)]:
            path = name if key in ("", "settings") else f"{key}.{name}"
            yield from differences(held.get(name), wanted.get(name), path)
    elif held != wanted:
        yield f"{key} = {json.dumps(held)} there, {json.dumps(wanted)} now"


class TilingSettings(Settings):
    """How scenes are cut into square tiles."""

    size: int = deciding(256, "edge of a tile, pixels", gt=0)
    overlap: int = deciding(64, "pixels that neighbouring tiles share; smaller than size", ge=0)

    @model_validator(mode="after")
    def _overlap_below_size(self) -> Self:
        if self.overlap >= self.size:
            raise ValueError(
                f"overlap {self.overlap} must be smaller than size {self.size}: give --tiling.overlap too, such as "
                f"{self.size // 4}"
            )
        return self


class OptimizerSettings(Settings):
    """The optimizer and what is done to gradients before its step."""

    name: Literal["adamw", "sgd"] = deciding("adamw", "algorithm")
    learning_rate: float = deciding(3e-4, "highest learning rate, reached after the warm-up", gt=0)
    weight_decay: float = deciding(0.01, "weight decay, decoupled in adamw, part of the gradient in sgd", ge=0)
    betas: tuple[float, float] = deciding((0.9, 0.999), "decay of adamw's two gradient moments, each in [0, 1)")
    momentum: float = deciding(0.9, "momentum of sgd", ge=0, lt=1)
    clip_norm: float | None = deciding(1.0, "largest gradient norm, None for no clipping", gt=0)
    fused: bool = operational(True, "one kernel for the whole update where the device has it")

    @model_validator(mode="after")
    def _betas_below_one(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must lie in [0, 1); 0.9 and 0.999 are usual")
        return self


class ScheduleSettings(Settings):
    """The learning rate as a function of the step, as a share of its highest value."""

    kind: Literal["cosine", "poly", "constant"] = deciding("cosine", "curve after the warm-up")
    warmup_steps: int = deciding(0, "steps of linear rise from zero", ge=0)
    restart_every: int | None = deciding(
        None, "steps after which the cosine starts anew at the highest learning rate, None: one cosine", gt=0
    )
    final_fraction: float = deciding(0.0, "share of the highest learning rate left at the last step, 0-1", ge=0, le=1)
    power: float = deciding(0.9, "exponent of the poly curve", gt=0)

    @model_validator(mode="after")
    def _only_a_cosine_restarts(self) -> Self:
        if self.restart_every is not None and self.kind != "cosine":
            raise ValueError(f"restart_every = {self.restart_every} with kind {self.kind}: only a cosine starts anew")
        return self


TILES_PER_FORWARD = 4
"""Tiles per forward of an accelerator, where nobody says otherwise."""


class MappingSettings(Settings):
    """How many tiles of a scene the model maps at a time.

    A command that maps scenes inherits this as a flag of its own. It is operational, as the device is: equality to the
    bit is promised for one number only, but memory that runs out halves it in the middle of a scene.
    """

    batch_size: int = operational(
        TILES_PER_FORWARD,
        "tiles per forward on an accelerator, halved where its memory is short; a CPU takes tiles one by one",
        gt=0,
    )


class DeviceSettings(Settings):
    """Where and in which number format the model runs."""

    device: Literal["auto", "cpu", "cuda", "mps"] = operational("auto", "auto takes cuda, then mps, then cpu")
    threads: int = operational(0, "CPU threads, 0 for as many as torch chooses", ge=0)
    precision: Literal["float32", "bfloat16"] = deciding("float32", "number format of the forward pass (autocast)")
    channels_last: bool = operational(
        False, "two-dimensional images and weights with channels innermost, often faster convolutions"
    )
    made_for: Literal["any", "gpu"] = operational("any", "what the other settings suit; gpu: a CPU is warned of")


class TrainingSettings(Settings):
    """Length and rhythm of a training run."""

    steps: int = deciding(1000, "optimizer steps; also the length of the learning-rate schedule", gt=0)
    batch_size: int = deciding(8, "samples in a micro-batch, all processes together", gt=0)
    accumulate: int = deciding(1, "micro-batches that make up one optimizer step", gt=0)
    seed: int = deciding(0, "seed of weights, sample order and augmentation", ge=0)
    validate_every: int = deciding(200, "steps between two validations; the best one is kept", gt=0)
    validation_batch_size: int = operational(
        TILES_PER_FORWARD,
        "tiles per forward of validation on an accelerator, halved where its memory is short; a CPU takes tiles one by "
        "one",
        gt=0,
    )
    choose: Literal["score", "last"] = deciding(
        "score",
        "the best checkpoint is the one with the highest score on validation, the later of equals; or the last one, "
        "where validation cannot choose",
    )
    patience: int | None = deciding(None, "validations without a better score before training stops, None: never", gt=0)
    ema_decay: float | None = deciding(
        None, "decay per step of the running mean of the weights, None for no such mean", gt=0, lt=1
    )
    checkpoint_every: int = operational(200, "steps between two checkpoints", gt=0)
    keep_last: int = operational(2, "most recent checkpoints that stay on disk, next to the best one", gt=0)
    log_every: int = operational(10, "steps between two lines of metrics", gt=0)

    @model_validator(mode="after")
    def _patience_needs_a_score(self) -> Self:
        if self.patience is not None and self.choose == "last":
            raise ValueError(
                f"patience {self.patience} with choose last: only a score tells when to stop; leave one out"
            )
        return self


class LoaderSettings(Settings):
    """How training batches are read."""

    threads: int = operational(
        1, "threads that read training windows ahead of the model; 0: none, windows are read when they are due", ge=0
    )


class SamplingSettings(Settings):
    """Which windows of the scenes are trained on."""

    kind: Literal["random", "grid", "chunked"] = deciding(
        "random",
        "random: windows from anywhere, each read for itself; grid: the tiles of prediction, each once an epoch; "
        "chunked: several windows from one chunk of a scene, which is decoded once and kept in memory (up to 1.5 GB), "
        "for compressed files whose blocks or strips are larger than a window, where there is no --cache",
    )
    windows_per_chunk: int = deciding(
        8, "windows drawn from a chunk before it is let go: the more, the faster, and the more alike (chunked)", ge=1
    )

    @model_validator(mode="after")
    def _only_chunks_hold_several(self) -> Self:
        usual = type(self).model_fields["windows_per_chunk"].default
        if self.kind != "chunked" and self.windows_per_chunk != usual:
            raise ValueError(
                f"windows_per_chunk {self.windows_per_chunk} with kind {self.kind}: only chunks hold several windows; "
                "give --sampling.kind chunked"
            )
        return self


class ClassSamplingSettings(SamplingSettings):
    """Which windows of the scenes are trained on, where labels are classes."""

    balance: Literal["none", "classes"] = deciding(
        "none",
        "classes: a window is drawn for each class equally often, from where it shows it, so that rare ones are met "
        "more often; all labels of training are counted at each start (random, chunked)",
    )

    @model_validator(mode="after")
    def _a_grid_is_fixed(self) -> Self:
        if self.balance == "classes" and self.kind == "grid":
            raise ValueError(
                "balance classes with kind grid: a grid holds every tile once; give --sampling.kind random or chunked"
            )
        return self


class TrackingSettings(Settings):
    """Where metrics go besides metrics.jsonl."""

    tensorboard: bool = operational(True, "write TensorBoard event files to the run folder")


class WorkerSettings(Settings):
    """Who does the jobs of a command: this process, others beside it, or a cluster; all of them or a share.

    A command whose jobs may travel inherits these as flags of its own. Results do not depend on them. All its paths
    are made absolute, because a worker may have been started in another folder.
    """

    workers: int = operational(0, "worker processes on this machine; 0: none", ge=0)
    scheduler: str | None = operational(
        None, "Dask scheduler whose workers do the work, such as tcp://node7:8786; it must be one that you trust"
    )
    shard: str | None = operational(
        None, "I/N: only the I-th of N shares of the work, I from 1 to N; for job arrays, on a disk that all see"
    )

    @field_validator("*", mode="after")
    @classmethod
    def _absolute(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [entry.absolute() if isinstance(entry, Path) else entry for entry in value]
        return value.absolute() if isinstance(value, Path) else value

    @field_validator("scheduler", mode="after")
    @classmethod
    def _an_address(cls, scheduler: str | None) -> str | None:
        if scheduler is not None and not re.fullmatch(r"[a-z]+://.+:[0-9]+", scheduler):
            raise ValueError("must be an address with protocol and port, such as tcp://node7:8786")
        return scheduler

    @field_validator("shard", mode="after")
    @classmethod
    def _one_of_several(cls, shard: str | None) -> str | None:
        if shard is None:
            return None
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", shard)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError("must be I/N with I from 1 to N, such as 2/8 for the second of eight")
        return shard

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.workers and self.scheduler is not None:
            raise ValueError(
                f"workers {self.workers} with scheduler {self.scheduler}: jobs run here or there; leave one out"
            )
        return self

    def takes(self, position: int) -> bool:
        """Whether the job at a position of the list, counted from 0, belongs to this shard."""
        if self.shard is None:
            return True
        index, count = map(int, self.shard.split("/"))
        return position % count == index - 1

    def turned(self, by: int) -> Self:
        """The same with the shares dealt out to the shards from another one on.

        Where each of many lists has few jobs, the first shards would otherwise get them all.

        Args:
            by: number of the list, the same in all shards.
        """
        if self.shard is None:
            return self
        index, count = map(int, self.shard.split("/"))
        return self.model_copy(update={"shard": f"{(index - 1 - by) % count + 1}/{count}"})


class RunSettings(Settings):
    """What every train command has: which data, which run folder, how long, how and where.

    The path of the data is made absolute, so that whoever uses the run finds them from any folder.
    """

    data: Path | None = operational(None, "prepared data set; none: the built-in sample")
    run: Path | None = operational(None, "run folder; none: runs/<task>-<recipe>-<hash>")
    recipe: str | None = operational(None, "name of the packaged settings that were used")
    training: TrainingSettings = TrainingSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    loader: LoaderSettings = LoaderSettings()
    device: DeviceSettings = DeviceSettings()
    tracking: TrackingSettings = TrackingSettings()

    @field_validator("data", mode="after")
    @classmethod
    def _data_from_anywhere(cls, data: Path | None) -> Path | None:
        return None if data is None else data.absolute()

    @model_validator(mode="after")
    def _warmup_within_the_run(self) -> Self:
        warmup, steps = self.schedule.warmup_steps, self.training.steps
        if warmup >= steps:
            raise ValueError(
                f"schedule.warmup_steps = {warmup}: must be below the {steps} steps of the run (training.steps); "
                "lower it"
            )
        return self


def _a_checkpoint(name: str) -> str:
    found = re.fullmatch(r"step-([0-9]{1,9})", name)
    if found is None and name not in ("best", "last"):
        raise ValueError("must be best, last, or the name of a checkpoint of the run, such as step-000200")
    return name if found is None else f"step-{int(found[1]):06d}"


CheckpointName = Annotated[str, AfterValidator(_a_checkpoint)]
"""`best`, `last`, or a checkpoint by its step, with or without leading zeros."""


class EvaluationSettings(MappingSettings):
    """What every evaluate command has: which run, which checkpoint of it, on which data."""

    run: Path = operational(..., "run folder of the train command")
    split: str = deciding("test", "split to score")
    data: Path | None = operational(
        None, "data set; none: the one the run was trained on, where it lay then; give it also when that has moved"
    )
    checkpoint: CheckpointName = deciding("best", "checkpoint to score: best, last, or one by its name (step-N)")
    baselines: bool = deciding(
        True, "score the baselines and the untrained network beside it, which takes longer; --no-baselines: leave them"
    )
    resamples: int = deciding(1000, "bootstrap resamples behind each interval", ge=0)
    device: DeviceSettings = DeviceSettings()


def check_weights(weights: str) -> None:
    """Refuse a file of pretrained weights that is not there, before data are read and torch is loaded.

    A command calls it and no settings class does: a finished run is used long after its weights have gone.

    Args:
        weights: `none`, `official` or a path.

    Raises:
        WeightsError: nothing is there.
    """
    if weights not in ("none", "official") and not Path(weights).exists():
        raise WeightsError(f"weights {weights}: no such file; check the path (model.weights)")


class CacheSettings(Settings):
    """Where what files hold is kept decoded.

    A command that reads windows of the same files again and again inherits this as a flag of its own. Results do not
    depend on it.
    """

    cache: Path | None = operational(
        None, "folder for decoded files, of their size without compression; none: each window is decoded anew"
    )
