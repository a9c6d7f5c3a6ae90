"""Scores as they are kept and shown: the evaluation file, intervals from resampled units, the printed table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from geocore.errors import DataError
from geocore.storage.files import read_sealed, remove_leftovers, write_sealed
from geocore.terminal import one_line, shell_word

if TYPE_CHECKING:
    from geocore.settings import EvaluationSettings
    from geocore.training.checkpoint import Checkpoint


_MOST_GROUPS: Final = 8
"""Lines of the table of groups."""


def _number_or_none(value: Any) -> Any:
    """NaN, a score without data, is null in the file: JSON has no NaN."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


Score = Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, BeforeValidator(_number_or_none)]
Scores = Mapping[str, Score]


class Evaluation(BaseModel):
    """What `evaluation-<split>.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    split: str
    protocol: Mapping[str, str | int | float | bool | None]
    """How data were made and scored, for readers who compare with other numbers."""
    samples: int = Field(ge=1)
    primary: str
    """Name of the leading score; higher is better."""
    meanings: Mapping[str, str] = {}
    """What the scores to look at say, a sentence each; the table shows these and no others, the leading one first."""
    model: Scores
    untrained: Scores | None = None
    """Scores of the same model before training."""
    baselines: Mapping[str, Scores] = {}
    per_class: Mapping[str, Scores] = {}
    """By class name."""
    per_group: Mapping[str, Scores] = {}
    """By group: event, site or year."""
    intervals: Mapping[str, tuple[Score, Score]] = {}
    """95 % bootstrap interval of scores of the model; None where there were too few units."""
    checkpoint: str
    data_hash: str
    versions: Mapping[str, str]

    @model_validator(mode="after")
    def _named_scores_exist(self) -> Evaluation:
        for name in (self.primary, *self.intervals):
            if name not in self.model:
                raise ValueError(f"'{name}' is not among the model's scores {sorted(self.model)}")
        return self

    def save(self, path: Path) -> None:
        """Write the file at once or not at all; its key `sha256` is the hash of all others.

        What killed processes left half written in its folder is removed.

        Args:
            path: usually `<run>/evaluation-<split>.json`.

        Raises:
            StorageError: the disk is full or closed.
        """
        remove_leftovers(path.parent)
        write_sealed(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read the file.

        Raises:
            DataError: there is none, it is not an evaluation, or not what was written.
        """
        remedy = "write it again with the evaluate command"
        try:
            content = read_sealed(path)
            return cls.model_validate(content)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; run the evaluate command first") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "file"
            raise DataError(f"{path}: {place}: {first['msg']}; {remedy}") from error
        except ValueError as error:
            raise DataError(f"{error}, by damage or by hand: {remedy}") from error

    def table(self) -> str:
        """Scores as lines of text: a row for each to look at, a column for each contender; then classes and groups."""
        contenders: dict[str, Mapping[str, float | None]] = {"model": self.model}
        if self.untrained is not None:
            contenders["untrained"] = self.untrained
        contenders.update(self.baselines)
        names = [self.primary, *(name for name in self.meanings or self.model if name != self.primary)]
        rows = [["score", "model", "95 % interval", *list(contenders)[1:]]]
        for name in names:
            low, high = self.intervals.get(name, (None, None))
            interval = "" if low is None or high is None else f"{shown_score(low)} to {shown_score(high)}"
            label = f"{name} *" if name == self.primary else name
            others = (shown_score(scores.get(name)) for scores in list(contenders.values())[1:])
            rows.append([label, shown_score(self.model.get(name)), interval, *others])
        shown = aligned(rows).split("\n")
        width = max(map(len, shown)) + 2
        said = ["", *(self.meanings.get(name, "") for name in names)]
        beside = [f"{line.ljust(width)}{text}".rstrip() for line, text in zip(shown, said, strict=True)]
        title = f"{self.task}, {self.split}: {self.samples} samples, checkpoint {self.checkpoint} (* leading score)"
        blocks = [title, "\n".join(beside)]
        if self.per_class:
            columns = sorted({name for scores in self.per_class.values() for name in scores})
            blocks.append(aligned(shown_parts("class", self.per_class, columns)))
        if self.per_group:
            blocks.append(self._groups())
        return "\n\n".join(blocks)

    def _groups(self) -> str:
        """The leading score of each group, the worst first; of many groups the worst alone."""
        known = {key: scores.get(self.primary) for key, scores in self.per_group.items()}
        ranked = sorted(known, key=lambda key: math.inf if (score := known[key]) is None else score)
        table = aligned([["group", self.primary], *([key, shown_score(known[key])] for key in ranked[:_MOST_GROUPS])])
        rest = len(ranked) - _MOST_GROUPS
        return f"{table}\n... and {rest} more, better ones" if rest > 0 else table


def closing(run: Path, path: Path, predict: str, inputs: str) -> str:
    """The last lines of an evaluate command: where the scores are, and what to do with the run.

    Args:
        run: its folder.
        path: of the evaluation.
        predict: name of the command that maps with the run.
        inputs: what it maps, one word.
    """
    return (
        f"all scores: {one_line(str(path))}; with pictures: {one_line(str(run / 'report.html'))}\n"
        f"map with it: {predict} --run {shell_word(run)} --input {inputs} --output MAPS"
    )


def evaluation_path(run: Path, split: str, *, which: str, checkpoint: Checkpoint, data_hash: str) -> Path:
    """The file for the scores of a split.

    Those of the best checkpoint on the run's own data are in `evaluation-<split>.json`; those of a checkpoint that was
    asked for by another name, and those on other data, stand beside it.

    Args:
        run: its folder.
        split: name of the split.
        which: what was asked for: `best`, `last` or the name of a checkpoint.
        checkpoint: the one that it is.
        data_hash: of the data set that was scored.
    """
    parts = ["evaluation", split]
    if which != "best":
        parts.append(checkpoint.path.name)
    if data_hash != checkpoint.card["data_hash"]:
        parts.append(data_hash[:8])
    return run / f"{'-'.join(parts)}.json"


def baselines_in(settings: EvaluationSettings) -> dict[str, str]:
    """What the protocol says of baselines: nothing where they are scored, else that they were left out."""
    return {} if settings.baselines else {"baselines": "left out (--no-baselines)"}


def bootstrap_interval(
    counts: np.ndarray,
    score: Callable[[np.ndarray], float],
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a score that is a function of summed counts.

    Whole groups are drawn with replacement, since samples of one place or event are not independent (percentile method:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        counts: shape (sample, ...), int or float; the counts or sums of each sample.
        score: from counts summed over samples, of shape (...), to the score; NaN where it has no data.
        groups: the group of each sample; None takes each sample as its own.
        resamples: draws.
        seed: of the draws.
        level: probability inside the interval.

    Returns:
        Lower and upper bound; both NaN with fewer than two groups or without any finite draw.
    """
    if groups is not None and len(groups) != len(counts):
        raise ValueError(f"{len(groups)} groups for {len(counts)} samples")
    flat = counts.reshape(len(counts), math.prod(counts.shape[1:]))
    if groups is not None:
        names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        grouped = np.zeros((len(names), flat.shape[1]), dtype=flat.dtype)
        np.add.at(grouped, member, flat)
        flat = grouped
    units = len(flat)
    if units < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    scores = np.empty(resamples)
    for index in range(resamples):
        times = np.bincount(rng.integers(units, size=units), minlength=units)
        scores[index] = score((times @ flat).reshape(counts.shape[1:]))
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def shown_score(value: float | None) -> str:
    """A score with four decimals, per cent with two; a count with none."""
    if value is None:
        return "-"
    if abs(value) <= 1:
        return f"{value:.4f}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.2f}"


def shown_parts(kind: str, parts: Mapping[str, Mapping[str, float | None]], columns: Sequence[str]) -> list[list[str]]:
    """A table of classes or groups, its head first; counts, which are whole and not all 0 or 1, without decimals.

    Args:
        kind: head of the first column.
        parts: name -> scores.
        columns: scores that are shown.
    """
    counts = set()
    for column in columns:
        known = [score for scores in parts.values() if (score := scores.get(column)) is not None]
        if known and max(known) > 1 and all(float(score).is_integer() for score in known):
            counts.add(column)

    def cell(scores: Mapping[str, float | None], column: str) -> str:
        score = scores.get(column)
        return f"{score:,.0f}" if score is not None and column in counts else shown_score(score)

    return [[kind, *columns], *([name, *(cell(scores, each) for each in columns)] for name, scores in parts.items())]


def aligned(rows: list[list[str]]) -> str:
    """Lines of a table, its columns padded to their widest cell; the first one to the left, numbers to the right."""
    rows = [list(map(one_line, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
