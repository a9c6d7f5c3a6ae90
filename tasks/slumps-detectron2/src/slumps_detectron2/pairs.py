"""Which labels belong to which scene: one pair of the command line, or a table of pairs."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from geocore.errors import DataError
from geocore.raster.paths import check_named
from geocore.storage.documents import DocumentError, read_text
from geocore.storage.special_files import check_regular
from slumps_detectron2.config import PrepareSettings

SPLITS: Final = ("train", "val", "test")
_COLUMNS: Final = ("image", "data", "label", "region", "split")
_RULE: Final = "the columns are image (or data), label and, where wanted, region and split"


@dataclass(frozen=True, slots=True)
class ScenePair:
    """A scene with its labels."""

    image: Path
    labels: tuple[Path, ...]
    """One label, or one of each expert."""
    region: str
    """The scene's name where no region is given."""
    split: str = ""
    """train, val or test where the table says so, for all scenes or for none."""

    @property
    def name(self) -> str:
        """Name of the scene: the stem of its file."""
        return self.image.stem


def find_pairs(settings: PrepareSettings) -> list[ScenePair]:
    """The pairs that the settings name, in their order.

    Raises:
        DataError: the table breaks a rule, a file is missing, or two scenes share a name.
    """
    if settings.data is not None:
        pairs = read_table(settings.data)
    else:
        assert settings.image is not None
        pairs = [ScenePair(settings.image, tuple(settings.label), settings.image.stem)]
    for pair in pairs:
        for path in (pair.image, *pair.labels):
            try:
                check_regular(path)
            except FileNotFoundError as error:
                rule = "there is no such file: scene and labels must exist; check the path"
                raise DataError(f"{path}: {rule}") from error
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}: must be a readable file; check the path") from error
        if twice := [path for path, count in Counter(pair.labels).items() if count > 1]:
            raise DataError(f"{twice[0]}: given twice as a label of {pair.image.name}: one label an expert; remove one")
    first: dict[str, Path] = {}
    for pair in pairs:
        if pair.name in first:
            raise DataError(
                f"{pair.image} and {first[pair.name]} share the name {pair.name!r}: products and labels are called by "
                "it; rename one, and list each scene once"
            )
        first[pair.name] = pair.image
    return pairs


def read_table(table: Path) -> list[ScenePair]:
    """Pairs of a CSV file; its paths are relative to its folder, and several labels of a scene are parted by `;`.

    As a list of bands it names files in its own folder and below, or below a stated root (`geocore.raster.paths`): it
    may have come with them.

    Raises:
        DataError: the file is missing or empty, a column or a value is not understood, or a file lies elsewhere.
    """
    try:
        lines = list(csv.reader(io.StringIO(read_text(table), newline="")))
    except OSError as error:
        raise DataError(f"{table}: {error.strerror}: --data takes a CSV file of pairs; check the path") from error
    except (DocumentError, csv.Error) as error:
        raise DataError(f"{table}: is no CSV text ({error}): save it as CSV in UTF-8") from error
    rows = [(number, [cell.strip() for cell in line]) for number, line in enumerate(lines, start=1) if any(line)]
    if not rows:
        raise DataError(f"{table}: is empty: {_RULE}")
    columns = _columns(table, rows[0][1])
    pairs = [_pair(table, number, columns, cells) for number, cells in rows[1:]]
    if not pairs:
        raise DataError(f"{table}: has no row below its header: add a row for each scene")
    missing = sum(not pair.split for pair in pairs)
    if 0 < missing < len(pairs):
        raise DataError(f"{table}: split is empty in {missing} of {len(pairs)} rows: give it in all of them or in none")
    return pairs


def _columns(table: Path, header: list[str]) -> list[str]:
    unknown = [column for column in header if column not in _COLUMNS]
    if unknown or len(set(header)) < len(header):
        what = f"column {unknown[0]!r} is unknown" if unknown else "a column occurs twice"
        raise DataError(f"{table}: {what}: {_RULE}; rename or remove it")
    columns = ["image" if column == "data" else column for column in header]
    if columns.count("image") != 1 or "label" not in columns:
        raise DataError(f"{table}: columns are {', '.join(header)}: {_RULE}")
    return columns


def _pair(table: Path, number: int, columns: list[str], cells: list[str]) -> ScenePair:
    where = f"{table}, line {number}"
    if len(cells) != len(columns):
        raise DataError(f"{where}: {len(cells)} cells, but {len(columns)} columns: quote cells that hold a comma")
    row = dict(zip(columns, cells, strict=True))
    labels = [label.strip() for label in row["label"].split(";") if label.strip()]
    if not row["image"] or not labels:
        raise DataError(f"{where}: {'label' if row['image'] else 'image'} is empty: each row needs a scene and a label")
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise DataError(f"{where}: split {split!r}: must be one of {', '.join(SPLITS)}")
    image, *others = (table.parent / name for name in (row["image"], *labels))
    for path in (image, *others):
        check_named(path, by=table, folder=table.parent)
    return ScenePair(image, tuple(others), row.get("region") or image.stem, split)
