"""Which chip is for what: published lists, the folders of a data set, or shares of its groups."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from floods_prithvi.config import PrepareSettings
from floods_prithvi.file_patterns import FORMATS, ChipFiles, chip_id, listed
from geocore.errors import DataError
from geocore.storage.documents import DocumentError, read_text
from geocore.tiling.splits import split_by_group

_NAME: Final = re.compile(r"(?:flood_)?(train|training|val|valid|validation|test|bolivia)(?:_data)?\.(?:csv|txt)")
_SPLIT_OF: Final = {
    **{name: name for name in ("train", "val", "test", "bolivia")},
    "training": "train",
    "valid": "val",
    "validation": "val",
}
_HALVES: Final = ("training", "validation")
"""Two parts as HLS Burn Scars and the crop chips are published in: the second was what models were tested on."""


Together = Callable[[Sequence[ChipFiles]], tuple[list[str], list[str]]]
"""Group of each chip, and remarks: what shows the same ground or the same pixels is in one."""


def assign_splits(
    chips: Sequence[ChipFiles], settings: PrepareSettings, together: Together
) -> tuple[dict[str, str], list[str]]:
    """Divide chips.

    Lists decide where there are any, and chips on none are left out. Data that come as training and validation alone
    are divided as published models were scored: validation tests, and training is divided by groups into train and val.
    Without lists and such folders groups are dealt out by their shares. Lists without one of train and val make a data
    set to score on alone.

    Args:
        chips: all that there are.
        settings: of the preparation.
        together: asked for the groups of chips that are dealt out.

    Returns:
        Id -> split, of the chips that are used, and remarks.

    Raises:
        DataError: a list is empty, or none of its chips is there; a chip stands on two lists; one of train and val
            stays empty; or there are too few groups.
    """
    paths = find_lists(settings.data if settings.lists is None else settings.lists, chosen=settings.lists is not None)
    notes: list[str] = []
    splits = _listed_splits(chips, paths, notes) if paths else _halves_of_folders(chips, settings.data)
    if splits and set(splits.values()) <= set(_HALVES):
        splits = _halved(chips, splits, settings, together, notes)
        notes.append(f"validation is test, and training is divided into train and val by {_groups(settings)}")
    elif not splits:
        share = settings.split
        shares = {"train": share.train, "val": share.val, "test": 1 - share.train - share.val}
        groups, remarks = together(chips)
        notes += remarks
        drawn = split_by_group(groups, shares, share.seed, remedy=_remedy(settings, remarks))
        splits = dict(zip([chip.id for chip in chips], drawn, strict=True))
        notes.append(f"no lists: {_groups(settings)} are dealt out whole")
    there = {"train", "val"} & set(splits.values())
    if len(there) == 1:
        (missing,) = {"train", "val"} - there
        raise DataError(f"{settings.data}: no chip is in split {missing}: training needs train and val; add a list")
    if not there:
        notes.append("no list to train and validate on: this data set can be scored on, not trained on")
    return splits, notes


def find_lists(folder: Path, *, chosen: bool) -> dict[str, Path]:
    """Lists below a folder by split: train, val, test, bolivia; or training and validation where there are just these.

    Args:
        folder: the data, or the folder that was given for lists.
        chosen: whether it was given for lists: it must then hold some, itself.

    Raises:
        DataError: it holds none though it was given for them, lists lie in several folders, or two of one split differ.
    """
    paths = sorted(folder.iterdir() if chosen and folder.is_dir() else folder.rglob("*"))
    matches = [(path, match[1]) for path in paths if (match := _NAME.fullmatch(path.name.lower()))]
    if not matches:
        if chosen:
            raise DataError(
                f"{folder}: holds no list: needs flood_train_data.csv, ..., or train.txt, val.txt, test.txt; check "
                "--lists"
            )
        return {}
    folders = sorted({str(path.parent) for path, _ in matches})
    if len(folders) > 1:
        raise DataError(f"lists lie in {listed(folders)}: only one folder of them can count; choose it with --lists")
    halves = {name for _, name in matches} == set(_HALVES)
    found: dict[str, Path] = {}
    for path, name in matches:
        split = name if halves else _SPLIT_OF[name]
        other = found.setdefault(split, path)
        if other != path and set(read_list(other)) != set(read_list(path)):
            raise DataError(f"{path} and {other.name} name different chips for one split: only one counts; remove one")
    return found


def read_list(path: Path) -> list[str]:
    """Ids of the chips on a list: one a line, or rows of file names without a header, of which the first counts.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    try:
        rows = csv.reader(io.StringIO(read_text(path), newline=""))
        names = [row[0].strip() for row in rows if row and row[0].strip()]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: must be a readable list of chips; check the path") from error
    except (DocumentError, csv.Error) as error:
        raise DataError(f"{path}: is no text ({error}): must be a list of chips; save it as CSV in UTF-8") from error
    if not names:
        raise DataError(f"{path}: is empty: a list must name at least one chip; fill or remove it")
    return [chip_id(name) for name in names]


def _listed_splits(chips: Sequence[ChipFiles], paths: Mapping[str, Path], notes: list[str]) -> dict[str, str]:
    """Id -> name of its list; remarks are added."""
    present = {chip.id for chip in chips}
    splits: dict[str, str] = {}
    for split, path in paths.items():
        names = list(dict.fromkeys(read_list(path)))
        missing = [name for name in names if name not in present]
        if len(missing) == len(names):
            raise DataError(
                f"{path}: none of its {len(names)} chips ({listed(names, 1)}) is among the {len(chips)} of the data: "
                "check list and folder"
            )
        if missing:
            notes.append(f"{len(missing)} of {len(names)} chips of {path.name} are not there: {listed(missing)}")
        for name in names:
            if splits.setdefault(name, split) != split:
                raise DataError(
                    f"{path}: {name} is also on the list of {splits[name]}: a chip has one purpose; correct one list"
                )
    unlisted = [chip.id for chip in chips if chip.id not in splits]
    if unlisted:
        notes.append(f"{len(unlisted)} chips are on no list and left out: {listed(unlisted)}")
    return {name: split for name, split in splits.items() if name in present}


def _halves_of_folders(chips: Sequence[ChipFiles], root: Path) -> dict[str, str]:
    """Id -> training or validation by the folders that chips lie in; empty unless all lie so and both occur."""
    found: dict[str, str] = {}
    for chip in chips:
        for folder in chip.image.relative_to(root).parts[:-1]:
            if folder in _HALVES:
                found[chip.id] = folder
    return found if len(found) == len(chips) and set(found.values()) == set(_HALVES) else {}


def _halved(
    chips: Sequence[ChipFiles],
    halves: Mapping[str, str],
    settings: PrepareSettings,
    together: Together,
    notes: list[str],
) -> dict[str, str]:
    """Id -> split; remarks are added."""
    inner = [chip for chip in chips if halves.get(chip.id) == "training"]
    share = settings.split
    shares = {"train": share.train, "val": share.val}
    groups, remarks = together(inner)
    notes += remarks
    drawn = split_by_group(groups, shares, share.seed, remedy=_remedy(settings, remarks))
    tested = {name: "test" for name, half in halves.items() if half == "validation"}
    return dict(zip([chip.id for chip in inner], drawn, strict=True)) | tested


def _remedy(settings: PrepareSettings, joined: Sequence[str]) -> str:
    """What helps where there are fewer groups than splits, some of which may have been joined."""
    because = "".join(f"{remark} (--split.allow-leaks true lets them lie apart); " for remark in joined)
    return (
        f"{because}add chips of other {_groups(settings)}, or give lists of chips with --lists FOLDER (train.txt, "
        "val.txt and test.txt; test.txt alone makes a data set to score on)"
    )


def _groups(settings: PrepareSettings) -> str:
    return FORMATS[settings.format].groups
