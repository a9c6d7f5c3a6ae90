"""Which patch trains, chooses and tests: by rules or by lists, what that leaks, and how many pixels each class gets."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from crops_activesampling.config import SplitSettings
from crops_activesampling.rules import SPLITS, drawn_order, read_rules
from crops_activesampling.s4a_format import PatchName
from geocore.errors import DataError
from geocore.storage.documents import DocumentError, read_text
from geocore.storage.files import atomic_write_text, remove_leftovers, storage_errors

PIXELS_FILE: Final = "pixel_counts.csv"
PATCHES_FILE: Final = "patches.csv"

_EXAMPLES: Final = 3


def assign_splits(
    found: Sequence[PatchName], settings: SplitSettings, lists: Path | None = None
) -> tuple[dict[PatchName, str], list[str]]:
    """Split of each patch that is used, and remarks.

    Rules, or lists in their place, come first, then fractions of the splits by a draw, then the exchange of train and
    val.

    Args:
        found: all patches there are.
        settings: rules, seed, fractions and exchange.
        lists: folder of train.txt, val.txt and test.txt; None: by the rules.

    Returns:
        (patch -> split, in the order of the names; remarks, one line each).

    Raises:
        DataError: a list names a patch twice or one that is not there, a patch came to a rule that must have none, or
            no patch is used.
        SettingsError: the rules cannot be understood.
    """
    if lists is not None:
        splits, notes = read_lists(lists, found)
    else:
        splits, notes = read_rules(settings.rules).assign(found, settings.seed), []
    if not splits:
        raise DataError(
            f"{settings.rules if lists is None else lists}: none of the {len(found)} patches is used; check it"
        )
    if len(splits) < len(found):
        unused = len(found) - len(splits)
        notes.append(f"{unused} of {len(found)} patches are for no split and left out")
    splits = subset(splits, settings.fractions, settings.seed)
    if settings.swap:
        splits = swapped(splits)
    return splits, notes


def subset(splits: Mapping[PatchName, str], fractions: Mapping[str, float], seed: int) -> dict[PatchName, str]:
    """Keep a share of the patches of a split, drawn by a seed; at least one. A larger share keeps these and more."""
    kept = set(splits)
    for split, share in fractions.items():
        members = drawn_order([name for name, its in splits.items() if its == split], f"fraction/{seed}")
        kept -= set(members[max(1, round(share * len(members))) :])
    return {name: split for name, split in splits.items() if name in kept}


def swapped(splits: Mapping[PatchName, str]) -> dict[PatchName, str]:
    """Exchange train and val."""
    other = {"train": "val", "val": "train"}
    return {name: other.get(split, split) for name, split in splits.items()}


def read_lists(folder: Path, found: Sequence[PatchName]) -> tuple[dict[PatchName, str], list[str]]:
    """Splits by train.txt, val.txt and test.txt, which have the name or path of a patch on each line.

    Args:
        folder: of the lists; one of them at least is there.
        found: all patches there are.

    Returns:
        (patch -> split, in the order of the names; remarks, one line each).

    Raises:
        DataError: there is no list, a line is no name of a patch, or a patch is on two lists, or not there.
    """
    present, lines, notes = set(found), dict[str, list[PatchName]](), []
    for split in SPLITS:
        path = folder / f"{split}.txt"
        try:
            text = read_text(path)
        except FileNotFoundError:
            notes.append(f"no {path}: no patch is for {split}")
            continue
        except (OSError, DocumentError) as error:
            raise DataError(f"{path}: cannot be read ({error}): give a text file of names of patches") from error
        lines[split] = [PatchName.of(line.strip()) for line in text.splitlines() if line.strip()]
        absent = [name.id for name in lines[split] if name not in present]
        if absent:
            raise DataError(
                f"{path}: {len(absent)} of its {len(lines[split])} patches are not there: {_listed(absent)}; get them, "
                "or take them off the list"
            )
    if not lines:
        raise DataError(f"{folder}: has neither train.txt nor val.txt nor test.txt; check the path")
    owners: dict[PatchName, list[str]] = defaultdict(list)
    for split, names in lines.items():
        for name in names:
            owners[name].append(split)
    for name, splits in sorted(owners.items()):
        if len(splits) > 1:
            raise DataError(f"{folder}: {name.id} is on {' and '.join(splits)}.txt: a patch is once for one split")
    return {name: owners[name][0] for name in sorted(owners)}, notes


def write_lists(folder: Path, splits: Mapping[PatchName, str]) -> None:
    """Write train.txt, val.txt and test.txt, with the path of a patch on each line.

    Lists that are there go first, and train.txt comes last: whoever stops this on its way finds nothing to train on,
    and never lists of two splits beside each other.

    Raises:
        StorageError: the disk is full or closed.
    """
    remove_leftovers(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            (folder / f"{split}.txt").unlink(missing_ok=True)
    for split in reversed(SPLITS):
        lines = [f"{name.relative}\n" for name in sorted(splits) if splits[name] == split]
        atomic_write_text(folder / f"{split}.txt", "".join(lines))


def leaks(splits: Mapping[PatchName, str]) -> list[str]:
    """What splits share on the ground, one line for each two of them.

    Patches that touch one another, in whatever year, hold parts of the same parcels; a patch of another year has the
    same parcels, and permanent crops the same label.
    """
    at: dict[tuple[str, int, int], list[PatchName]] = defaultdict(list)
    for name in splits:
        at[name.tile, name.x, name.y].append(name)
    touching: dict[tuple[str, str], list[str]] = defaultdict(list)
    returning: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(splits):
        for row in (-1, 0, 1):
            for col in (-1, 0, 1):
                for other in at.get((name.tile, name.x + col, name.y + row), ()):
                    if other <= name or splits[other] == splits[name]:
                        continue
                    pair = tuple(sorted((splits[name], splits[other]), key=SPLITS.index))
                    kind = returning if (row, col) == (0, 0) else touching
                    kind[pair[0], pair[1]].append(f"{name.id} and {other.id}")
    lines = []
    for kind, what in ((touching, "touch"), (returning, "are of the same place")):
        for (first, second), pairs in sorted(kind.items(), key=lambda item: [SPLITS.index(each) for each in item[0]]):
            lines.append(f"{len(pairs)} pairs of patches of {first} and {second} {what}, such as {pairs[0]}")
    return lines


def counts_of_splits(
    splits: Mapping[PatchName, str], class_px: Mapping[PatchName, Sequence[int]]
) -> dict[str, list[int]]:
    """Pixels of each class in each split.

    Args:
        splits: patch -> split.
        class_px: patch -> pixels of each class, of those patches that could be counted.

    Returns:
        Split -> pixels of each class; only splits that have a patch.
    """
    counts: dict[str, list[int]] = {}
    for split in SPLITS:
        rows = [class_px[name] for name, its in splits.items() if its == split and name in class_px]
        if rows:
            counts[split] = [sum(column) for column in zip(*rows, strict=True)]
    return counts


def write_tables(
    folder: Path, splits: Mapping[PatchName, str], class_px: Mapping[PatchName, Sequence[int]], names: Sequence[str]
) -> None:
    """Write `patches.csv`, a row a patch, and `pixel_counts.csv`, a row a split and class.

    Args:
        folder: where to.
        splits: patch -> split.
        class_px: patch -> pixels of each class.
        names: of the classes, the ignored one first.

    Raises:
        StorageError: the disk is full or closed.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    head = ["patch", "split", "year", "tile", "x", "y", *(f"{name} [px]" for name in names)]
    rows = [
        [name.id, splits[name], name.year, name.tile, name.x, name.y, *class_px[name]]
        for name in sorted(splits)
        if name in class_px
    ]
    atomic_write_text(folder / PATCHES_FILE, _csv([head, *rows]))
    pixels: list[list[object]] = [["split", "class", "name", "pixels", "share of labelled"]]
    for split, counts in counts_of_splits(splits, class_px).items():
        labelled = max(1, sum(counts[1:]))
        for index, (name, count) in enumerate(zip(names, counts, strict=True)):
            pixels.append([split, index, name, count, f"{count / labelled:.6f}" if index else ""])
    atomic_write_text(folder / PIXELS_FILE, _csv(pixels))


def summary_lines(
    splits: Mapping[PatchName, str], class_px: Mapping[PatchName, Sequence[int]], names: Sequence[str]
) -> Iterator[str]:
    """A line a split: its patches, labelled pixels, and the shares of the classes, or that it is empty."""
    patches, counts = Counter(splits.values()), counts_of_splits(splits, class_px)
    for split in SPLITS:
        if split not in counts:
            yield f"{split}: no patch"
            continue
        labelled = sum(counts[split][1:])
        shares = ", ".join(
            f"{name} {100 * count / labelled:.1f} %"
            for name, count in zip(names[1:], counts[split][1:], strict=True)
            if count
        )
        yield f"{split}: {patches[split]} patches, {labelled} labelled pixels: {shares or 'none of any class'}"


def missing_classes(counts: Mapping[str, Sequence[int]], names: Sequence[str]) -> Iterator[str]:
    """A line for each split that lacks a class which another one has."""
    for split, its in counts.items():
        lacking = [
            name
            for index, name in enumerate(names)
            if index and not its[index] and any(other[index] for other in counts.values())
        ]
        if lacking:
            yield f"{split} has no pixel of {', '.join(lacking)}"


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {rest} more" if rest > 0 else "")
