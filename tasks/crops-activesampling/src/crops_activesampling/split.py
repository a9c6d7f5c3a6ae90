"""Assign patches to splits by rules, say what splits share, and count the pixels of each class.

uv run crops-split --data RAW --out SPLIT --split.rules s4a-temporal2 --split.fractions train 0.1
uv run crops-prepare --data RAW --out DATASET --lists SPLIT
"""

from __future__ import annotations

from typing import NoReturn

from crops_activesampling.config import SplitCommandSettings
from geocore.cli.main import command
from geocore.terminal import one_line, shell_word


def main() -> NoReturn:
    """Entry point of `crops-split`."""
    command(split, SplitCommandSettings, prog="crops-split")


def split(settings: SplitCommandSettings) -> None:
    """Write train.txt, val.txt, test.txt, patches.csv and pixel_counts.csv, and print a line a split.

    Raises:
        DataError: there is no patch, one has no usable labels, or a patch came to a rule that must have none.
        SettingsError: rules or encoder cannot be understood.
        StorageError: the disk is full or closed.
    """
    import numpy as np

    from crops_activesampling.encoders import read_encoder
    from crops_activesampling.s4a_format import PatchName, find_patches, open_patch
    from crops_activesampling.splits import (
        assign_splits,
        counts_of_splits,
        leaks,
        missing_classes,
        summary_lines,
        write_lists,
        write_tables,
    )
    from geocore.terminal import progress

    encoder = read_encoder(settings.encoder)
    paths = {PatchName.of(path): path for path in find_patches(settings.data)}
    splits, notes = assign_splits(list(paths), settings.split)
    class_px = {}
    with progress(len(splits), "patches") as bar:
        for name in splits:
            with open_patch(paths[name]) as patch:
                classes = encoder.encode(patch.labels())
            class_px[name] = np.bincount(classes.ravel(), minlength=len(encoder.names)).tolist()
            bar.advance()
    write_lists(settings.out, splits)
    write_tables(settings.out, splits, class_px, encoder.names)
    for note in [*notes, *missing_classes(counts_of_splits(splits, class_px), encoder.names)]:
        print(f"note: {one_line(note)}")
    for leak in leaks(splits):
        print(f"warning: {one_line(leak)}")
    for line in summary_lines(splits, class_px, encoder.names):
        print(line)
    data, out = (shell_word(path) for path in (settings.data, settings.out))
    print(f"{out}: train.txt, val.txt, test.txt and tables of {len(splits)} patches")
    print(f"next: crops-prepare --data {data} --out DATASET --lists {out}")
