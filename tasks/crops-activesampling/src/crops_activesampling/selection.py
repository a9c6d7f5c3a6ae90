"""A source of batches that reads more samples than it hands out, and asks which are worth training on.

`Selecting` wraps any source of batches, such as `geocore.datasets.loader.Batches`, and is one itself:
`geocore.training.fit.fit` takes it as it is. It reads a block of micro-batches, has a `Chooser` score their samples
with the model as it is then, and hands out the best as micro-batches of the usual size.

Each process of a distributed run reads its own slice of every micro-batch, so candidates are disjoint, and keeps the
best of its own: the batch is the union of the shares.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from crops_activesampling.scoring import best, perturbed
from geocore.errors import RunError, TrainingError
from geocore.transforms.augment import CounterRNG

if TYPE_CHECKING:
    from geocore.device import DeviceContext
    from geocore.training.fit import BatchSource

logger = logging.getLogger(__name__)

_UNIFORM, _GUMBEL = 101, 102
"""Places of the draws among those of the augmentations, which count from 0."""


@dataclass(frozen=True, slots=True)
class Chooser:
    """Which samples of a block are trained on."""

    score: Callable[[dict[str, Any], Tensor], Tensor]
    """score(micro-batch on the CPU, uniform) -> shape (batch,), float; higher is trained on, NaN never is. `uniform`,
    shape (batch,), float32, is a number in [0, 1) for each sample, a pure function of seed, epoch and index."""
    block: int
    """Samples looked at for each one that is trained on."""
    batches_per_block: int = 1
    """Micro-batches that are chosen at once, by the same scores."""
    pick: Literal["top", "boltzmann"] = "top"
    temperature: float = 1.0
    """Of boltzmann, in standard deviations of the block's scores."""
    seed: int = 0
    warmup_batches: int = 0
    """Micro-batches at the beginning that are chosen by `warmup_score`."""
    warmup_score: Callable[[dict[str, Any], Tensor], Tensor] = lambda batch, uniform: uniform
    """As `score`; costs no forward pass."""
    forwards: bool = True
    """Whether a score costs a forward pass."""
    amounts: Callable[[dict[str, Any]], Mapping[str, Tensor]] = lambda batch: {}
    """amounts(micro-batch) -> name -> shape (batch,): what each sample holds of something, such as pixels of a class.
    Its share that is kept is logged. The names are the same for every micro-batch."""
    identity: str = ""
    """What the scores hang on besides the settings of the run; a run does not go on with another."""

    def choose(self, candidates: Sequence[dict[str, Any]], handed: int) -> Tensor:
        """Choose among the candidates of this process.

        Samples whose score is not finite are never chosen; where too few others remain, the best of these are taken
        more than once (`scoring.best`).

        Args:
            candidates: micro-batches with `keys`, shape (batch, 2), int64: epoch and index.
            handed: micro-batches handed out before.

        Returns:
            Ascending positions among the candidates, as many as are to be trained on; empty when no score is finite.
        """
        keys = torch.cat([batch["keys"] for batch in candidates])
        number = len(keys) // self.block
        uniform = CounterRNG.of(keys, self.seed, _UNIFORM).uniform(0)
        warm = handed < self.warmup_batches
        score = self.warmup_score if warm else self.score
        shares = torch.split(uniform, [len(batch["keys"]) for batch in candidates])
        scores = torch.cat(
            [score(batch, share).cpu() for batch, share in zip(candidates, shares, strict=True)]
        ).double()
        if self.pick == "boltzmann" and not warm:
            scores = perturbed(scores, CounterRNG.of(keys, self.seed, _GUMBEL).uniform(0), self.temperature)
        return best(scores, number)


class Selecting:
    """Batches of chosen samples; wraps a source of batches and is one.

    Resuming is bit-equal under the conditions of `fit`. A checkpoint at the border of two blocks holds the position of
    the wrapped source, and the next block is scored by the restored model, which is the one that would have scored it.
    A checkpoint within a block also holds which samples were chosen, as their scores cannot be had again; the block is
    read once more. Only at another number of processes is such a block chosen anew.
    """

    def __init__(
        self,
        batches: BatchSource,
        chooser: Chooser,
        *,
        context: DeviceContext,
        log: Callable[[int, Mapping[str, float]], None] | None = None,
        log_every_blocks: int = 1,
    ) -> None:
        """Wrap a source.

        Args:
            batches: micro-batches: dicts, at any depth, of tensors with the samples as first axis, and of lists. Its
                state is a pure position: reading again from a state gives the same batches.
            chooser: how to choose.
            context: this process among the others.
            log: called before a block's first micro-batch is handed out, with the number of micro-batches handed out
                so far and `kept_<name>`, the share of each amount that was kept since the last call.
            log_every_blocks: blocks from one call to the next.
        """
        self._batches, self._chooser, self._context, self._log = batches, chooser, context, log
        self._log_every_blocks = log_every_blocks
        self._at_block: Mapping[str, Any] = batches.state_dict()
        self._kept: list[list[int]] | None = None
        self._next = 0
        self._handed = 0
        self._scored = 0
        self._tally: dict[str, list[float]] = {}
        """Name -> amounts kept and offered since the last call of `log`."""

    @property
    def scored(self) -> int:
        """Samples scored by a forward pass so far, over all processes."""
        return self._scored

    def state_dict(self) -> dict[str, Any]:
        """Position after the micro-batches handed out; within a block also what was chosen by each process."""
        return {
            "batches": dict(self._at_block),
            "kept": self._kept,
            "next": self._next,
            "handed": self._handed,
            "scored": self._scored,
            "tally": self._tally,
            "identity": self._chooser.identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position of `state_dict`; counts for iterations begun later.

        Raises:
            RunError: the scores hang on something else than they did.
        """
        if state["identity"] != self._chooser.identity:
            raise RunError(
                f"scores came from {state['identity'] or 'nothing else'} and now from "
                f"{self._chooser.identity or 'nothing else'}: give the hold-out model that the run was started with, "
                "or choose another folder with --run"
            )
        self._at_block = state["batches"]
        self._batches.load_state_dict(self._at_block)
        self._kept, self._next = state["kept"], state["next"]
        self._handed, self._scored, self._tally = state["handed"], state["scored"], dict(state["tally"])
        if self._kept is not None and len(self._kept) != self._context.world_size:
            logger.info("the block is chosen anew: it was for %d processes", len(self._kept))
            self._kept = None

    def __iter__(self) -> Iterator[Any]:
        """Yield micro-batches without end, from the current position.

        Raises:
            TrainingError: no candidate of a process has a finite score.
        """
        source = iter(self._batches)
        per_block = self._chooser.batches_per_block
        while True:
            candidates = [next(source) for _ in range(self._chooser.block * per_block)]
            if self._kept is None:
                self._kept = self._choose(candidates)
            mine = self._kept[self._context.rank]
            size = len(mine) // per_block
            for number in range(self._next, per_block):
                self._next = number + 1
                self._handed += 1
                chosen = _taken(candidates, mine[number * size : (number + 1) * size])
                if self._next == per_block:
                    self._at_block, self._kept, self._next = self._batches.state_dict(), None, 0
                    candidates = []
                yield chosen

    def _choose(self, candidates: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Choose in every process and tell all of them what each has chosen, as only the main one saves it."""
        chosen = self._chooser.choose(candidates, self._handed)
        offered = sum(len(batch["keys"]) for batch in candidates)
        amounts = _joined([self._chooser.amounts(batch) for batch in candidates])
        number = offered // self._chooser.block
        # A row a process: positions, to which 1 is added so that zeros say that nothing could be chosen, then amounts.
        table = torch.zeros((self._context.world_size, number + 2 * len(amounts)), dtype=torch.float64)
        mine = table[self._context.rank]
        mine[: len(chosen)] = chosen.double() + 1
        if amounts:
            mine[number:] = torch.stack(
                [part for each in amounts.values() for part in (each[chosen].sum(), each.sum())]
            )
        table = self._context.all_reduce_sum(table)
        positions = table[:, :number].long() - 1
        if bool((positions < 0).any()):
            raise TrainingError(
                f"none of the {offered} samples of a block has a finite score: each block needs one with labels; "
                "raise selection.block or set skip_empty, or lower optimizer.learning_rate if the loss has diverged"
            )
        if self._chooser.forwards and self._handed >= self._chooser.warmup_batches:
            self._scored += offered * self._context.world_size
        self._count(list(amounts), table[:, number:].sum(0).tolist())
        kept: list[list[int]] = positions.tolist()
        return kept

    def _count(self, names: Sequence[str], kept_and_offered: Sequence[float]) -> None:
        """Add a block to the tally, and log it when it is time."""
        for index, name in enumerate(names):
            held = self._tally.setdefault(name, [0.0, 0.0])
            for part in range(2):
                held[part] += kept_and_offered[2 * index + part]
        block = self._handed // self._chooser.batches_per_block + 1
        if self._log is not None and block % self._log_every_blocks == 0:
            self._log(
                self._handed, {f"kept_{name}": kept / total for name, (kept, total) in self._tally.items() if total}
            )
            self._tally = {}


def _taken(candidates: Sequence[Any], positions: Sequence[int]) -> Any:
    """A micro-batch of some samples of several micro-batches.

    Args:
        candidates: of equal structure; tensors and lists have the samples as first axis.
        positions: counted over all candidates.
    """
    first = candidates[0]
    if isinstance(first, Mapping):
        return {key: _taken([batch[key] for batch in candidates], positions) for key in first}
    places = [(part, index) for part, batch in enumerate(candidates) for index in range(len(batch))]
    # One by one, since joining the candidates would hold the whole block in memory twice.
    items = [candidates[part][index] for part, index in (places[position] for position in positions)]
    return torch.stack(items) if isinstance(first, Tensor) else items


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Amounts of all candidates, by name, on the CPU."""
    return {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}
