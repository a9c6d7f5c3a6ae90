"""What prepare tells of the data set that it made, and draws of it: the last lines of the command of every task.

Tasks count what only they know (`Contents`) and open their samples for the picture; lines and files are the same for
all. What matters first comes first: what each split has, the values of the bands, sizes of objects, remarks, what was
written, the next command. More than fits on a screen is summed up; all of it is in dataset.yaml.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import FILE_NAME, Sample
from geocore.datasets.statistics import BandStatistics, Statistics
from geocore.raster.bands import Band
from geocore.report.preview import Keys, Picture, Preview, draw_previews, samples_a_row, save_picture
from geocore.terminal import one_line, progress, shell_word

PREVIEW: Final = "preview.png"
"""Name of the picture in the folder of a data set."""

_SPLITS: Final = ("train", "val", "test")
_WIDTH: Final = 110
"""Characters of a line of a table."""
_GROUPS: Final = 5
_LINES: Final = 24
"""Of counts, sizes and values together, about: what a screen shows at once."""
_LEAST_BANDS, _MOST_BANDS = 6, 12
_NOTES: Final = 8
_WARNINGS: Final = 4
_SHOWN: Final = (1.0, 50.0, 99.0)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a sample holds."""

    pixels: int
    """Of its grid, or of the part of it that the sample is."""
    class_px: Mapping[str, Mapping[str, int]]
    """Label -> class -> pixels that count."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What else is counted, in the plural -> how many."""
    content: float = 0.0
    """How much there is to see: samples with most, least and a medium amount of it are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What a task knows of a data set."""

    dataset: Dataset
    samples: str
    """What samples are called, in the plural."""
    groups: str
    """What groups are called, in the plural."""
    contents: Mapping[str, Contents]
    """Id of each sample -> what it holds."""
    statistics: Statistics | None
    """Of one layer; None: there is nothing to measure."""
    measured: Sequence[Sample]
    """Samples that the statistics cover."""
    sizes: Sequence[str] = ()
    """Lines about objects."""
    keys: Keys = field(default_factory=dict)
    """How labels are drawn."""
    shown: str
    """What the picture shows in which colours, in a few words."""
    preview: Callable[[Sample], Preview]
    """Reads a sample for the picture; its title is its id."""


def present(
    overview: Overview,
    folder: Path,
    *,
    unvalidated: Sequence[str] = (),
    warnings: Sequence[str] = (),
    written: Sequence[str] = (),
) -> None:
    """Print what is in a data set, draw `preview.png`, and print what was written and the next command.

    Args:
        overview: of the data set, which is saved.
        folder: that it was saved in.
        unvalidated: why validation cannot choose a checkpoint, from `geocore.training.validation.told_by_prepare`; the
        next
            command then takes the last one.
        warnings: what splits share and the like, one line each.
        written: what else was written to the folder.

    Raises:
        StorageError: the disk is full or closed.
        UserError: a sample cannot be read.
    """
    for line in lines(overview, [*unvalidated, *warnings]):
        print(one_line(line), flush=True)
    save_picture(folder / PREVIEW, _drawn(overview))
    place = shell_word(folder)
    print(f"written to {place}: {', '.join([FILE_NAME, *written])}, and {PREVIEW}: look at it before training")
    task, splits = overview.dataset.task, splits_of(overview.dataset.samples)
    if can_train(overview.dataset):
        print(f"next: {task}-train --data {place}{' --training.choose last' if unvalidated else ''}")
        return
    lacking = "val" if "train" in splits else "train"
    print(f"not to train on: training needs {overview.samples} in train and val, and there are none in {lacking}")
    print(f"next: {task}-evaluate --run RUN --data {place} --split {splits[-1]}")


def lines(overview: Overview, warnings: Sequence[str] = ()) -> Iterator[str]:
    """What is in a data set, line by line; see `present`."""
    above = [*_split_lines(overview), *_group_lines(overview), *overview.sizes]
    yield from above
    yield from _value_lines(overview, most=min(_MOST_BANDS, max(_LEAST_BANDS, _LINES - len(above))))
    yield from noted(overview.dataset.notes, FILE_NAME)
    yield from (f"warning: {warning}" for warning in warnings[:_WARNINGS])
    if len(warnings) > _WARNINGS:
        yield f"warning: and {len(warnings) - _WARNINGS} more of the kind"


def noted(notes: Sequence[str], file: str) -> Iterator[str]:
    """A line for each of the first remarks.

    Args:
        notes: of a data set; what splits share is never among those that are left out.
        file: where all of them are.
    """
    ordered = sorted(notes, key=lambda note: not note.startswith("leak"))
    yield from (f"note: {one_line(note)}" for note in ordered[:_NOTES])
    if len(ordered) > _NOTES:
        yield f"note: {len(ordered) - _NOTES} more notes are in {file}"


def can_train(dataset: Dataset) -> bool:
    """Whether there are samples to train on and to choose a checkpoint by."""
    return {"train", "val"} <= {sample.split for sample in dataset.samples}


def splits_of(samples: Sequence[Sample]) -> list[str]:
    """Train, val and test, as far as there are samples, then other splits by name."""
    there = {sample.split for sample in samples}
    return [split for split in _SPLITS if split in there] + sorted(there - set(_SPLITS))


def chosen(samples: Sequence[Sample], content: Mapping[str, float], count: int) -> list[Sample]:
    """Samples to show: the one with most content, the one with least, and others evenly between; same in every run.

    Args:
        samples: of a split.
        content: id of each sample -> how much there is to see.
        count: at most so many.
    """
    ranked = sorted(samples, key=lambda sample: (-content[sample.id], sample.id))
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
    return [ranked[round(float(place))] for place in places]


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent where it can be read so; a whole one with all."""
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)))
    if -5 <= power < 9:
        return f"{value:.{max(0, digits - 1 - power)}f}"
    return f"{value:.{digits - 1}e}"


def percent(share: float) -> str:
    """A share of 0-1 as per cent: two digits, and nothing that is not 0 or all is called so."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    shown = 100 * share
    if shown < 0.01:
        return "<0.01 %"
    if shown > 99:
        return f"{min(shown, 99.99):.2f} %" if shown > 99.9 else f"{shown:.1f} %"
    return f"{number(shown, 2)} %"


def spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """The least, the largest and the median of some values, in words.

    Args:
        values: at least one.
        shown: makes a text of a value.
    """
    ranked = sorted(values)
    low, middle, high = (shown(ranked[place]) for place in (0, (len(ranked) - 1) // 2, -1))
    return low if low == high else f"{low} to {high}, median {middle}"


def area(square_metres: float) -> str:
    """An area in m2, ha or km2, whichever is read most easily."""
    for unit, size in (("km2", 1e6), ("ha", 1e4)):
        if square_metres >= size:
            return f"{number(square_metres / size)} {unit}"
    return f"{number(square_metres)} m2"


def _drawn(overview: Overview) -> Picture:
    """The picture: a row for each split."""
    content = {name: its.content for name, its in overview.contents.items()}
    samples, count = overview.dataset.samples, samples_a_row(len(overview.keys))
    rows = [chosen(members, content, count) for members in _by_split(samples).values()]
    shown: list[list[Preview]] = []
    with progress(sum(map(len, rows)), "drawing the preview") as bar:
        for row in rows:
            shown.append([])
            for sample in row:
                preview = overview.preview(sample)
                shown[-1].append(
                    Preview(f"{sample.split}: {preview.title}", preview.values, preview.valid, preview.marks)
                )
                bar.advance()
    heading = f"{overview.samples} of each split, from most to least content; {overview.shown}, stretched"
    return draw_previews(shown, overview.keys, heading=heading)


def _by_split(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    return {split: [sample for sample in samples if sample.split == split] for split in splits_of(samples)}


def _split_lines(overview: Overview) -> Iterator[str]:
    """A table of the splits, and one of the classes of each label that has several and does not fit into it."""
    members = _by_split(overview.dataset.samples)
    rows = {split: members.get(split, []) for split in dict.fromkeys([*_SPLITS, *members])}
    contents = {split: [overview.contents[sample.id] for sample in row] for split, row in rows.items()}
    labels = list(dict.fromkeys(name for its in overview.contents.values() for name in its.class_px))
    counted = list(dict.fromkeys(name for its in overview.contents.values() for name in its.counts))
    columns: dict[str, list[str]] = {
        "": list(rows),
        overview.samples: [f"{len(row):,}" for row in rows.values()],
        overview.groups: [f"{len({sample.group for sample in row}):,}" for row in rows.values()],
    }
    for name in counted:
        columns[name] = [f"{sum(each.counts.get(name, 0) for each in its):,}" for its in contents.values()]
    of_labels = {label: _class_columns(label, contents) for label in labels}
    if len(labels) == 1 and len(_table(columns | of_labels[labels[0]])[0]) <= _WIDTH:
        yield from _table(columns | of_labels[labels[0]])
    else:
        yield from _table(columns)
        for label, its in of_labels.items():
            yield from _table({label: list(rows)} | its)
    yield from _unseen_classes(overview)


def _class_columns(label: str, contents: Mapping[str, Sequence[Contents]]) -> dict[str, list[str]]:
    """The labelled share of each split, and of the labelled pixels the share of each class; rare ones are summed up."""
    totals = [sum((Counter(each.class_px.get(label, {})) for each in its), Counter[str]()) for its in contents.values()]
    pixels = [sum(each.pixels for each in its) for its in contents.values()]
    labelled = [sum(total.values()) for total in totals]
    columns = {"labelled": [_share(px, of) for px, of in zip(labelled, pixels, strict=True)]}
    names = list(
        dict.fromkeys(name for its in contents.values() for each in its for name in each.class_px.get(label, {}))
    )
    if len(names) < 2:
        return columns
    names = [name for name in names if any(total[name] for total in totals)]
    found = columns
    frequent = sorted(names, key=lambda name: -sum(total[name] for total in totals))
    for kept in range(len(names), 0, -1):
        shown = [name for name in names if name in frequent[:kept]]
        found = columns | {name: [_share(t[name], n) for t, n in zip(totals, labelled, strict=True)] for name in shown}
        if kept < len(names):
            rest = [sum(total[name] for name in names if name not in shown) for total in totals]
            found[f"{len(names) - kept} more"] = [_share(px, of) for px, of in zip(rest, labelled, strict=True)]
        if len(_table({label: list(contents)} | found)[0]) <= _WIDTH:
            break
    return found


def _unseen_classes(overview: Overview) -> Iterator[str]:
    """Lines that name classes without a pixel: in all of the data set, or in a split though another one has some."""
    pixels: dict[str, Counter[tuple[str, str]]] = {}
    for split, samples in _by_split(overview.dataset.samples).items():
        pixels[split] = Counter()
        for sample in samples:
            for label, classes in overview.contents[sample.id].class_px.items():
                pixels[split].update({(label, name): px for name, px in classes.items()})
    every = list(dict.fromkeys(place for its in pixels.values() for place in its))
    several = len({label for label, _ in every}) > 1

    def listed(places: Iterable[tuple[str, str]]) -> str:
        return ", ".join(f"{label} {name}" if several else name for label, name in places)

    nowhere = [place for place in every if not any(its[place] for its in pixels.values())]
    if nowhere:
        yield f"no pixel is {listed(nowhere)}"
    for split, its in pixels.items():
        lacking = [place for place in every if not its[place] and place not in nowhere]
        line = f"{split} has no pixel of {listed(lacking)}"
        if lacking and line not in overview.dataset.notes:
            yield line


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "-"


def _group_lines(overview: Overview) -> Iterator[str]:
    """The largest groups of each split, where groups hold other numbers of samples."""
    every = set(Counter(sample.group for sample in overview.dataset.samples).values())
    if len(every) == 1:
        if every != {1}:
            yield f"{overview.samples} by {overview.groups}: {every.pop()} in each"
        return
    for split, samples in _by_split(overview.dataset.samples).items():
        sizes = Counter(sample.group for sample in samples)
        largest = sorted(sizes, key=lambda group: (-sizes[group], group))
        named = ", ".join(f"{group} {sizes[group]:,}" for group in largest[:_GROUPS])
        rest = len(largest) - _GROUPS
        more = f" and {rest:,} more {overview.groups}" if rest > 0 else ""
        yield f"{overview.samples} of {split} by {overview.groups}: {named}{more}"


def _value_lines(overview: Overview, *, most: int) -> Iterator[str]:
    """A table of the values of each band, in its unit; at most so many bands, as the rest is in dataset.yaml."""
    if overview.statistics is None:
        return
    (layer_name, figures), *_ = overview.statistics.layers.items()
    layer = overview.dataset.layers[layer_name]
    periods = max(1, len(layer.times))
    pixels = periods * sum(overview.contents[sample.id].pixels for sample in overview.measured)
    units = {band.unit for band in layer.bands}
    of = "train" if {sample.split for sample in overview.measured} == {"train"} else overview.samples
    columns: dict[str, list[str]] = {}
    if len(units) == 1:
        unit = units.pop()
        said = "numbers as stored" if unit is None else "unit 1" if unit == "1" else unit
        title = f"values of {of} ({said})"
    else:
        title = f"values of {of}"
        columns["unit"] = [band.unit or "-" for band in layer.bands]
    bands = list(zip(layer.bands, figures, strict=True))
    whole = np.dtype(layer.dtype).kind in "iu" and all((band.scale, band.offset) == (1, 0) for band in layer.bands)
    for name in ("minimum", *_SHOWN, "maximum"):
        heading = name if isinstance(name, str) else "median" if name == 50 else f"{name:g} %"
        values = [_physical(band, its, name) for band, its in bands]
        # Stored whole numbers have no decimals.
        columns[heading] = [number(int(value) if whole and value.is_integer() else value) for value in values]
    columns["valid"] = [_share(its.count, pixels) for _, its in bands]
    if layer.pixel_m is not None:
        yield f"pixels on the ground: {' to '.join(f'{side:g}' for side in sorted({*layer.pixel_m}))} m"
    table = _table({title: [band.name for band, _ in bands]} | columns)
    yield from table[: 1 + most]
    if len(table) > 1 + most:
        left = [band.name for band, _ in bands[most:]]
        yield f"{len(left)} more bands: {', '.join(left)}"


def _physical(band: Band, figures: BandStatistics, which: str | float) -> float:
    """A figure in the unit of the band; a negative scale turns their order round."""
    if band.scale < 0:
        turned = {"minimum": "maximum", "maximum": "minimum"}
        which = turned[which] if isinstance(which, str) else 100 - which
    stored = getattr(figures, which) if isinstance(which, str) else figures.percentiles[which]
    return float(stored) * band.scale + band.offset


def _table(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines of columns: the first one flush left, the others right."""
    widths = [max(map(len, [name, *cells])) for name, cells in columns.items()]
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
