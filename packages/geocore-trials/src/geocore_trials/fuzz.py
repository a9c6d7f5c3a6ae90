"""The session of hostile files: each mutated file is read by a child of its own, and its end is judged."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from geocore_trials.cases import Session, Trial, in_turns
from geocore_trials.children import Ending, forked, limit_memory
from geocore_trials.corpus import Format, formats

MEMORY: Final = 2 << 30
"""Address space that reading a file of some kilobytes may take besides, bytes."""
GROWTH_KIB: Final = 1 << 20
"""Resident memory that it may take besides."""
_HANG_S: Final = 20.0
_GOOD: Final = frozenset({"refused", "equal"})
_IMPORTED: Final = (
    *("rasterio", "rasterio.shutil", "h5py", "pandas", "geopandas", "pyogrio", "pyarrow.parquet", "torch", "yaml"),
    *(
        "geocore.raster.geotiff",
        "geocore.raster.stack",
        "geocore.raster.products",
        "geocore.vector.outlines",
        "geocore.raster.npy_store",
        "geocore.report.report",
    ),
    *(
        "geocore.training.checkpoint",
        "geocore.training.pretrained",
        "geocore.storage.records",
        "geocore.datasets.schema",
        "geocore.cli.main",
    ),
    *(
        "seaice_multitask.scenes",
        "crops_activesampling.s4a_format",
        "crops_activesampling.rules",
        "floods_prithvi.config",
    ),
    *("floods_prithvi.split_lists", "slumps_detectron2.pairs"),
)


@dataclass(frozen=True, slots=True)
class Sound:
    """A format with its valid files."""

    format: Format
    path: Path
    data: bytes
    other: bytes
    digest: bytes
    base_kib: int
    """Peak memory of reading the valid file."""
    spans: tuple[tuple[int, int], ...]
    """Where a checksum covers the bytes."""


def run_fuzz(session: Session, names: Sequence[str], home: Path, seed: int) -> None:
    """Mutate and read the files of formats, one of each in turn, until the time is up.

    Args:
        session: takes the cases.
        names: of formats; none: all.
        home: folder to work in.
        seed: of all mutations.
    """
    for name in _IMPORTED:
        importlib.import_module(name)
    chosen = [each for each in formats().values() if not names or each.name in names]
    shutil.rmtree(home / "fuzz", ignore_errors=True)
    session.run(in_turns(mutations(sound(each, home / "fuzz" / each.name), seed) for each in chosen))


def sound(format: Format, folder: Path) -> Sound:
    """Make the files of a format and read one.

    Raises:
        RuntimeError: a valid file cannot be read.
    """
    for number in range(2):
        (folder / str(number)).mkdir(parents=True)
    # The same name for both, since some formats name the file beside them.
    paths = [folder / str(number) / f"{format.stem}{format.suffix}" for number in range(2)]
    logs = folder / "logs"
    for number, path in enumerate(paths):
        made = forked(lambda path=path, number=number: format.make(path, number), logs)  # type: ignore[misc]
        if made.code:
            raise RuntimeError(f"{format.name} cannot be made: {made.err[-1000:]}")
    told = folder / "digest"
    read = read_in_child(format, paths[0], told, logs)
    if read.code:
        raise RuntimeError(f"{format.name}: its valid file cannot be read: {read.err[-1000:]}")
    data, other = (path.read_bytes() for path in paths)
    spans = tuple(format.covered(data)) if format.covered else ()
    return Sound(format, paths[0], data, other, told.read_bytes(), read.peak_kib, spans)


def mutations(found: Sound, seed: int) -> Iterator[Trial]:
    """Mutated files without end."""
    rng = random.Random(f"{seed} {found.format.name}")
    number = 0
    while True:
        mutator = rng.choice(found.format.mutators)
        drawn = random.Random(f"{seed} {found.format.name} {number}")
        changed = mutator(found.data, found.other, drawn)
        if changed != found.data:
            yield _trial(found, f"{mutator.__name__} {number}", changed)
        number += 1


def _trial(found: Sound, label: str, changed: bytes) -> Trial:
    logs = found.path.parents[1] / "logs"
    told = found.path.parents[1] / "digest"

    def run() -> tuple[str, str]:
        found.path.write_bytes(changed)
        told.unlink(missing_ok=True)
        try:
            ending = read_in_child(found.format, found.path, told, logs)
        finally:
            found.path.write_bytes(found.data)
        verdict, detail = judged(ending, told, found)
        if verdict not in allowed:
            kept = found.path.parents[1] / "fallen"
            kept.mkdir(exist_ok=True)
            (kept / f"{label.replace(' ', '-')}{found.path.suffix}").write_bytes(changed)
        return verdict, detail

    allowed = _GOOD if _is_covered(found, changed) else _GOOD | {"different"}
    return Trial("fuzz", found.format.name, label, run, allowed)


def judged(ending: Ending, told: Path, found: Sound) -> tuple[str, str]:
    """Verdict on the end of a child that read a mutated file."""
    if ending.timed_out:
        return "hang", ending.last_line
    if ending.code < 0:
        return "crash", f"signal {-ending.code}: {ending.last_line}"
    if "MemoryError" in ending.err or ending.peak_kib - found.base_kib > GROWTH_KIB:
        return "bomb", f"{(ending.peak_kib - found.base_kib) // 1024} MiB: {ending.last_line}"
    if ending.traceback or ending.code not in (0, 2):
        return "traceback", ending.last_line
    if ending.code == 2:
        return "refused", ending.last_line
    return ("equal", "") if told.read_bytes() == found.digest else ("different", "")


def _is_covered(found: Sound, changed: bytes) -> bool:
    """Whether all that changed lies where a checksum of the format covers it, at the same length."""
    if len(changed) != len(found.data) or not found.spans:
        return False
    places = [place for place, (one, two) in enumerate(zip(found.data, changed, strict=True)) if one != two]
    # A chunk that was given a checksum that fits is another valid file.
    inside = all(any(start <= place < end for start, end in found.spans) for place in places)
    return inside and len(places) == 1


def read_in_child(format: Format, path: Path, told: Path, logs: Path, timeout_s: float = _HANG_S) -> Ending:
    """Read a file in a child with limits, which leaves the digest in `told`."""

    def work() -> None:
        from geocore.errors import UserError

        limit_memory(MEMORY)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        try:
            digest = format.read(path)
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # as a command does
            sys.exit(2)
        told.write_bytes(digest)

    return forked(work, logs, timeout_s=timeout_s)
