"""fit(): the one training loop.

A step takes `accumulate` micro-batches from the batch source, computes the gradient of the loss over all of them and
all processes, and moves the weights. Every state that decides the next step goes into each checkpoint, so that a run
which was killed at any moment goes on, when started again, to the very weights that it would have had. Losses stay on
the device until a line of metrics is written; in a process that is there for it (`device.device_context`), Ctrl-C and
SIGTERM are looked at between two steps.

Called from a program or a notebook it changes nothing of the process, needs no run folder, and has a default for all
that can have one:

    result = fit(model, batches, step, validate, training=TrainingSettings(steps=500), progress=False)
    model.load_state_dict(result.best_state)
"""

from __future__ import annotations

import copy
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from geocore.device import DeviceContext, out_of_memory, seeded
from geocore.errors import TrainingError
from geocore.interruptions import REPEAT_S, Stopped
from geocore.settings import OptimizerSettings, ScheduleSettings, TrainingSettings
from geocore.terminal import Progress, quiet
from geocore.training.batchnorm import share_batch_norms
from geocore.training.checkpoint import (
    CheckpointState,
    has_checkpoints,
    load_checkpoint,
    rewind,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from geocore.training.gradients import Losses, Step, backward
from geocore.training.optim import EMA, learning_rate_factor, load_optimizer, make_optimizer, skips_on_device
from geocore.training.pretrained import load_strictly
from geocore.training.run import Run

logger = logging.getLogger(__name__)

_ROUND = 10
"""Steps between two exchanges about stopping: seldom enough to cost nothing, often enough for the 30 seconds that
torchrun and SLURM leave a process after SIGTERM, up to three seconds a step."""


class StopSignals:
    """Notes SIGINT and SIGTERM while it is open; a second wish of the same kind acts as it did before.

    Where the process is not dedicated to the work, signals act as they did before.
    """

    def __init__(self, context: DeviceContext) -> None:
        """Keep the context; signals are noted from `with` on."""
        self._context = context
        self._received: int | None = None
        self._came: dict[int, float] = {}
        self._previous: dict[int, Any] = {}

    def agreed(self, step: int) -> int | None:
        """Return the signal to stop for, or None; the same answer in every process.

        Args:
            step: steps done; processes exchange what they received at every tenth.
        """
        if self._context.world_size == 1:
            return self._received
        if step % _ROUND:
            return None
        wishes = self._context.all_reduce_sum(torch.tensor(float(self._received is not None)))
        return (self._received or signal.SIGTERM) if float(wishes) > 0 else None

    def __enter__(self) -> Self:
        # Python lets only the main thread handle signals.
        if self._context.dedicated and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._came.setdefault(number, now) > REPEAT_S:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
        self._received = number


_NORM = "gradient_norm"

Log = Callable[[int, Mapping[str, float]], None]
"""log(steps done, name -> number)."""


class LossLogger:
    """Collects the losses of each step, checks that they are finite, and logs their means."""

    def __init__(self, log: Log, bar: Progress[int], step: int, unwritten: dict[str, list[float]]) -> None:
        """Start after `step` steps.

        Args:
            log: takes lines of metrics.
            bar: progress of the training.
            step: steps done.
            unwritten: name -> values since the last line; the meter keeps them there, so that they can be saved.
        """
        self._log, self._bar = log, bar
        bar.advance(step)
        self._unread: list[tuple[int, str, Tensor]] = []
        self._read = unwritten
        self._step, self._time = step, time.monotonic()

    def add(self, step: int, losses: Losses, norm: Tensor | None) -> None:
        """Keep the losses and the gradient norm of a step, without reading them."""
        for name, loss in losses.items():
            self._unread.append((step, name, loss))
        if norm is not None:
            self._unread.append((step, _NORM, norm.detach()))

    def not_finite(self) -> Tensor:
        """Return 1 when a value of the latest step is not finite, else 0; a float32 scalar on the device."""
        latest = [value for step, _, value in self._unread if step == self._unread[-1][0]]
        return torch.isfinite(torch.stack(latest)).all().logical_not().float()

    def check(self) -> None:
        """Read what was kept, which waits for the device.

        Raises:
            TrainingError: a value is not finite; names the first one and its step.
        """
        for (step, name, _), number in zip(self._unread, self._numbers(), strict=True):
            if not math.isfinite(number):
                what = "the gradient's norm" if name == _NORM else f"loss {name!r}"
                raise TrainingError(
                    f"{what} is {number} at step {step}: it must be finite; lower optimizer.learning_rate, or "
                    "check the input for values that are not; the weights of that step were not saved"
                )
            self._read.setdefault(name, []).append(number)
        self._unread.clear()

    def _numbers(self) -> list[float]:
        """Read what was kept: on a device in one copy, on a CPU each number by itself, which is faster there."""
        values = [value for _, _, value in self._unread]
        return [value.item() for value in values] if not values or values[0].is_cpu else torch.stack(values).tolist()

    def write(self, step: int, learning_rate: float) -> None:
        """Log means since the last line: each loss, their sum as `loss`, the norm, and the pace."""
        self.check()
        means = {name: sum(numbers) / len(numbers) for name, numbers in self._read.items()}
        norm = {_NORM: means.pop(_NORM)} if _NORM in means else {}
        loss = sum(means.values())
        each = {f"loss_{name}": mean for name, mean in means.items()} if len(means) > 1 else {}
        now = time.monotonic()
        pace = (step - self._step) / max(now - self._time, 1e-9)
        self._log(step, {"loss": loss, **each, **norm, "learning_rate": learning_rate, "steps_per_second": pace})
        self._bar.advance(step - self._step, note=f"loss {loss:.4g}")
        self._read.clear()
        self._step, self._time = step, now


Validate = Callable[[nn.Module], Mapping[str, float]]
"""validate(model) -> score name -> value; runs in every process, in evaluation mode, without gradients."""


class BatchSource(Protocol):
    """Where micro-batches come from: `datasets.loader.Batches`, or a selector around one that also asks the model."""

    def __iter__(self) -> Iterator[Any]:
        """Yield micro-batches without end, from the current state."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state after the batches handed out. In a distributed run, that of the main process is kept."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Go back to a state."""
        ...


@dataclass(frozen=True, slots=True)
class FitResult:
    """What came out of a run."""

    steps: int
    """Optimizer steps done."""
    best_step: int | None
    """Step of the best weights: the last one where no validation gave a number, or `training.choose` is last."""
    best_score: float | None
    """Its score; None when it has none."""
    scores: dict[str, float]
    """Scores of the last validation."""
    stopped_early: bool
    """Whether patience ended the run before its last step."""
    best_state: dict[str, Any] | None = field(default=None, repr=False)
    """The best weights by the names of the model's state, on the CPU: those that validation saw, the running mean where
    there is one. None with a run, whose best checkpoint holds them."""
    history: list[dict[str, float]] = field(default_factory=list, repr=False)
    """Lines of metrics of this call, as a run keeps them: `step` and, by name, losses, learning rate and pace, or
    scores."""


@dataclass(slots=True)
class _Done:
    """How far a run has come."""

    step: int = 0
    best_step: int | None = None
    best_score: float | None = None
    stale: int = 0
    """Validations since the best one."""
    scores: dict[str, float] = field(default_factory=dict)
    scored_step: int | None = None
    """Step of the validation that gave the scores."""
    unwritten: dict[str, list[float]] = field(default_factory=dict)
    """Losses since the last line of metrics, so that a resumed run writes the same lines."""


_TRAINING, _OPTIMIZER, _SCHEDULE = TrainingSettings(), OptimizerSettings(), ScheduleSettings()


def fit(
    model: nn.Module,
    batches: BatchSource,
    step: Step,
    validate: Validate | None = None,
    *,
    training: TrainingSettings = _TRAINING,
    optimizer: OptimizerSettings = _OPTIMIZER,
    schedule: ScheduleSettings = _SCHEDULE,
    context: DeviceContext | None = None,
    run: Run | None = None,
    card: Mapping[str, Any] | None = None,
    primary: str | None = None,
    parameter_groups: list[dict[str, Any]] | None = None,
    label: str = "training",
    find_unused_parameters: bool = False,
    drawn_apart: Sequence[str] = (),
    progress: bool = True,
) -> FitResult:
    """Train a model, or go on where the run was left.

    Several processes train the weights of one to 1e-6 (measured in float32 on a CPU, over 12 steps of a small network),
    batch norms included: their statistics are those of all processes. What each process draws for itself, such as
    dropout, is told at the start.

    Args:
        model: is moved to the device; ends with the weights of the last step, in training mode.
        batches: micro-batches of `training.batch_size` samples, over all processes.
        step: computes the losses of one micro-batch as (sum, count), see `geocore.training.gradients`.
        validate: scores the model, every `validate_every` steps and at the end; sees the running mean of the weights
            when there is one. In a distributed run it has to return the score over all processes. None: the weights of
            the last step are the best.
        training: length and rhythm.
        optimizer: algorithm, learning rate and clipping.
        schedule: learning rate over the run.
        context: where it runs; None: `DeviceContext.on()`. In one of `device_context` the global generators stay
            seeded, and SIGINT and SIGTERM end the training with a checkpoint. In any other the generators get back the
            states that they had, and signals act as they did.
        run: open run folder; when it has checkpoints, training goes on from the last. None: nothing is written, and the
            result holds the best weights.
        card: JSON values that describe the model, for the run; `run.provenance` is added.
        primary: the score that decides which weights are best; higher is better, and of equals the later one is
            best, since it is trained longest. Where no validation gives a number, the last one is taken with a warning.
            None: the first of those that `validate` returns.
        parameter_groups: groups for the optimizer, each with `params` and, where they differ, `lr`, `weight_decay`;
            None for all parameters that require a gradient.
        label: what the bar calls it.
        find_unused_parameters: for a model of which a step may leave parts out, in a distributed run. Off by default,
            since it walks the graph at every step, and losses of empty targets hang on the graph anyway.
        drawn_apart: what the step draws in each process by itself, in words, apart from dropout, which is found.
        progress: show a bar and say what is remarkable; False: nothing, neither here nor in `validate`, but for what is
            logged for debugging.

    Returns:
        Steps done and the scores, lines of metrics, and the best weights where there is no run.

    Raises:
        Stopped: SIGINT or SIGTERM came, in a context of `device_context`; the step was finished and, where there is a
            run, saved.
        TrainingError: a loss is not finite, or the device's memory is full. Earlier checkpoints are as they were.
        CheckpointError: the run has checkpoints, but none of them can be read.
        StorageError: the disk is full.
        ValueError: patience is given without a validation.
    """
    if validate is None and training.patience is not None:
        raise ValueError(f"training.patience = {training.patience} without validate(): only a score tells when to stop")
    context = DeviceContext.on() if context is None else context
    context.prepare(model)
    share_batch_norms(model, context)
    _tell_what_differs(model, context, drawn_apart, logging.INFO if progress else logging.DEBUG)
    updater = make_optimizer(model, parameter_groups, optimizer)
    parameters = [parameter for group in updater.param_groups for parameter in group["params"]]
    parallel = _parallel(model, context, find_unused_parameters)
    average = EMA(model, training.ema_decay) if training.ema_decay is not None else None
    kept = _Kept(run, {} if run is None else {**run.provenance, **(card or {})}, primary)
    state = _State(model, updater, average, batches, training, context, kept)
    # On an accelerator a loss that is not finite turns the update into nothing there and is noticed when losses are
    # next read, so that no step waits for the device. On a CPU reading costs nothing.
    guarded = skips_on_device(updater, context)

    with quiet(not progress), seeded(training.seed + context.rank, context):
        done = state.resume()
        bars: Progress[int] = Progress(training.steps, label)
        with bars as bar, StopSignals(context) as signals, _memory_errors(training, context):
            meter = LossLogger(kept.log, bar, done.step, done.unwritten)
            micro_batches = iter(batches)
            model.train()
            while done.step < training.steps and not _exhausted(done, training):
                rate = learning_rate_factor(done.step, training.steps, schedule)
                for group in updater.param_groups:
                    group["lr"] = group["initial_lr"] * rate
                losses = backward(parallel, step, micro_batches, accumulate=training.accumulate, context=context)
                norm = nn.utils.clip_grad_norm_(parameters, optimizer.clip_norm) if optimizer.clip_norm else None
                done.step += 1
                meter.add(done.step, losses, norm)
                if guarded:
                    updater.found_inf = meter.not_finite()  # type: ignore[attr-defined]
                else:
                    meter.check()
                updater.step()
                # What zero_grad() does, without the marks for profilers, which cost ten times as much.
                for parameter in parameters:
                    parameter.grad = None
                if average is not None:
                    average.update(done.step)

                last = done.step == training.steps
                if last or done.step % training.log_every == 0:
                    meter.write(done.step, updater.param_groups[0]["lr"])
                best = False
                if validate is not None and (last or done.step % training.validate_every == 0):
                    meter.check()
                    best = state.validate(validate, done)
                    last = last or _exhausted(done, training)
                    if last and done.best_step is None and context.is_main:
                        logger.log(
                            logging.WARNING if progress else logging.DEBUG,
                            "%s was no number at any validation: the last checkpoint is the best one",
                            kept.primary,
                        )
                if last and (done.best_step is None or validate is None):
                    # A finished run can be evaluated and mapped with, whatever its scores are.
                    best, done.best_step = True, done.step
                stop = signals.agreed(done.step)
                if last or best or stop or done.step % training.checkpoint_every == 0:
                    meter.check()
                    state.save(done, best=best)
                if stop and not last:
                    raise Stopped(stop)
    return kept.finish(done, stopped_early=done.step < training.steps)


class _Kept:
    """What a training leaves beside the model: in the folder of its run, or in memory where it has none."""

    def __init__(self, run: Run | None, card: dict[str, Any], primary: str | None) -> None:
        self.run, self.card = run, card
        self.primary = primary
        """The score that decides; None before the first validation of a training that was not told."""
        self.best: dict[str, Any] | None = None
        self._history: list[dict[str, float]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a line of metrics."""
        if self.run is not None:
            self.run.log(step, values)
        else:
            self._history.append({"step": step, **values})

    def primary_of(self, scores: Mapping[str, float]) -> float:
        """The score that decides."""
        if self.primary is None:
            self.primary = next(iter(scores), None)
        if self.primary is None or self.primary not in scores:
            wanted = "any score" if self.primary is None else f"the primary score {self.primary!r}"
            raise ValueError(f"validate() returned {sorted(scores)}, without {wanted}")
        return scores[self.primary]

    def finish(self, done: _Done, *, stopped_early: bool) -> FitResult:
        """Note the end in the run; what came out."""
        summary: dict[str, Any] = {
            "steps": done.step,
            "best_step": done.best_step,
            "best_score": done.best_score,
            "scores": done.scores,
            "stopped_early": stopped_early,
        }
        if self.run is not None:
            self.run.mark_finished({"primary": self.primary, **summary})
        return FitResult(**summary, best_state=self.best, history=self._history)


@dataclass(frozen=True, slots=True)
class _State:
    """All that decides the next step, to be saved and resumed together."""

    model: nn.Module
    updater: torch.optim.Optimizer
    average: EMA | None
    batches: BatchSource
    training: TrainingSettings
    context: DeviceContext
    kept: _Kept

    def resume(self) -> _Done:
        """Load the last checkpoint where there is one, and drop what the run folder holds beyond it."""
        done = _Done()
        if (run := self.kept.run) is None:
            return done
        folder = run.checkpoints
        if has_checkpoints(folder):
            checkpoint = load_checkpoint(folder, for_training=True)
            load_strictly(self.model, checkpoint.model(ema=False), checkpoint.path)
            optimizer, source = checkpoint.training_state()
            load_optimizer(self.updater, optimizer)
            if self.average is not None:
                self.average.load_state_dict(checkpoint.model(ema=True))
            self.batches.load_state_dict(source)
            set_rng_state(checkpoint.random, self.context, seed=self.training.seed + self.context.rank)
            done = _Done(**checkpoint.progress)
            if done.best_step is not None and not (folder / f"step-{done.best_step:06d}").exists():
                done.best_step, done.best_score, done.stale = None, None, 0
        # Nobody may clear away what another process still has to read.
        self.context.barrier()
        if self.context.is_main:
            rewind(folder, done.step, done.best_step)
            run.rewind(done.step)
        return done

    def save(self, done: _Done, *, best: bool) -> None:
        """Write a checkpoint, where there is a run, else keep the best weights; every process has to call it."""
        if (run := self.kept.run) is None:
            if best:
                state = (self.model if self.average is None else self.average).state_dict()
                self.kept.best = {
                    name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
                    for name, value in state.items()
                }
            return
        states = rng_state(self.context)
        if self.context.is_main:
            contents = CheckpointState(
                step=done.step,
                model=self.model.state_dict(),
                ema=None if self.average is None else self.average.state_dict(),
                optimizer=self.updater.state_dict(),
                source=self.batches.state_dict(),
                random=states,
                progress=asdict(done),
                card=self.kept.card,
            )
            save_checkpoint(run.checkpoints, contents, best=best, keep=self.training.keep_last)
        # A process that leaves early makes torchrun end the one that still writes.
        self.context.barrier()

    def validate(self, validate: Validate, done: _Done) -> bool:
        """Score the model, log the scores, and return whether the primary one is the best so far."""
        with torch.no_grad(), self.average.applied() if self.average is not None else nullcontext():
            self.model.eval()
            self._share_buffers()
            with self.context.autocast():
                done.scores = {name: float(score) for name, score in validate(self.model).items()}
            self.model.train()
        primary = self.kept.primary_of(done.scores)
        done.scored_step = done.step
        self.kept.log(done.step, {f"validation_{name}": score for name, score in done.scores.items()})
        # One process decides, lest rounding lets two of them disagree about saving.
        score = torch.tensor(primary if self.context.is_main else 0.0, dtype=torch.float64)
        primary_score = float(self.context.all_reduce_sum(score))
        if self.training.choose == "last":
            done.best_step, done.best_score = done.step, None if math.isnan(primary_score) else primary_score
            return True
        better = not math.isnan(primary_score) and (done.best_score is None or primary_score > done.best_score)
        # Of equals the later one is trained longer, but a score that stands still is no reason to go on.
        best = better or primary_score == done.best_score
        if best:
            done.best_step, done.best_score = done.step, primary_score
        done.stale = 0 if better else done.stale + 1
        return best

    def _share_buffers(self) -> None:
        """Give every process the buffers of the main one: batch statistics are gathered by each on its own."""
        if self.context.world_size > 1:
            for buffer in self.model.buffers():
                if buffer.dtype is not torch.bool:
                    main = buffer.clone() if self.context.is_main else torch.zeros_like(buffer)
                    buffer.copy_(self.context.all_reduce_sum(main))


def _tell_what_differs(model: nn.Module, context: DeviceContext, drawn_apart: Sequence[str], level: int) -> None:
    """Say in one line why several processes do not train the weights of one, where they do not."""
    drops = any(
        float(getattr(module, name, 0.0) or 0.0) > 0
        for module in model.modules()
        for name in ("p", "drop_prob")
        if "drop" in type(module).__name__.lower()
    )
    apart = [*(["what dropout leaves out"] if drops else []), *drawn_apart]
    if context.world_size > 1 and context.is_main and apart:
        logger.log(
            level,
            "%d processes: each draws %s by itself, so that weights differ from those of one process by chance",
            context.world_size,
            " and ".join(apart),
        )


def _parallel(model: nn.Module, context: DeviceContext, find_unused_parameters: bool) -> nn.Module:
    """Wrap the model so that its backward pass sums gradients over processes; as it is when there is one process."""
    if context.world_size == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=None if context.device.type == "cpu" else [context.device],
        find_unused_parameters=find_unused_parameters,
        gradient_as_bucket_view=True,
    )


def _exhausted(done: _Done, training: TrainingSettings) -> bool:
    return training.patience is not None and done.stale >= training.patience


@contextmanager
def _memory_errors(training: TrainingSettings, context: DeviceContext) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory on {context.device} with training.batch_size = {training.batch_size} over "
            f"{context.world_size} process(es) and training.accumulate = {training.accumulate}: lower batch_size and "
            "raise accumulate by the same factor"
        ) from error
