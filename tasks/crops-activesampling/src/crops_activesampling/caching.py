"""The cache of medians: an entry a patch with its composites, parcels and, for a data set, its classes.

An entry `medians/2020_31TCG_patch_14_14/` holds `medians.npy` (period, band, row, col), `counts.npy` of the same shape,
`parcels.npy` (row, col) and, where an encoder is given, `labels.npy` (row, col). It is made once, by as many processes
as wanted, and made again when the patch, the settings or the code that computes it change.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from crops_activesampling import cf_times, composites, median_network, s4a_format
from crops_activesampling.composites import check_bands, patch_composites, period_edges
from crops_activesampling.config import CompositeSettings
from crops_activesampling.s4a_format import PatchName, open_patch
from geocore.errors import DataError
from geocore.jobs.job import Job, JobResult, Source
from geocore.jobs.runner import run_jobs
from geocore.raster import hdf5
from geocore.raster.npy_store import NewEntry, map_array, new_entry, read_entry
from geocore.settings import WorkerSettings
from geocore.storage.files import sha256_file, sha256_json, storage_errors

if TYPE_CHECKING:
    from crops_activesampling.encoders import Encoder

FOLDER: Final = "medians"
"""Folder of the entries within that of a data set."""

_MODULES: Final = (cf_times, composites, hdf5, s4a_format, median_network)
_CODE: Final = tuple(Path(str(path)) for path in (__file__, *(module.__file__ for module in _MODULES)))
_COMPUTED: Final = ("medians", "counts", "parcels")


def cache_patches(
    patches: Sequence[Path],
    out: Path,
    settings: CompositeSettings,
    *,
    encoder: Encoder | None = None,
    workers: int | WorkerSettings = 0,
    on_done: Callable[[JobResult], None] | None = None,
) -> list[JobResult]:
    """Make the entries of patches; those that are in the cache already are left as they are.

    Where only the encoder is another than before, medians are kept.

    Args:
        patches: files.
        out: folder that gets the folder `medians`.
        settings: of the composites.
        encoder: makes classes of the labels; None leaves them out.
        workers: who does it, as for `run_jobs`.
        on_done: called after each patch.

    Returns:
        How each patch ended; a failed one says why in one line.

    Raises:
        SettingsError: bands or periods are unusable.
        StorageError: the disk is full or closed.
        Incomplete: patches are left to other shards.
    """
    check_bands(settings.bands)
    for year in sorted({PatchName.of(path).year for path in patches}):
        period_edges(settings, year)  # a frequency that is none would else fail every patch
    identity = {
        "code": [sha256_file(path) for path in _CODE],
        "composites": settings.model_dump(mode="json"),
        "encoder": None if encoder is None else _identity(encoder),
    }
    jobs = [_job(path) for path in patches]
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    work = partial(_cache_patch, folder=out / FOLDER, identity=identity, encoder=encoder)
    return run_jobs(jobs, work, out / FOLDER, identity=identity, workers=workers, on_done=on_done)


def _job(path: Path) -> Job:
    name, place = PatchName.of(path).id, os.path.realpath(path)
    try:
        status, source = path.stat(), Source.of(path)
    except OSError:  # its job says why
        return Job(name, {"path": place})
    # A file that was replaced is read again; the entry itself holds the hash of what was read.
    return Job(name, {"path": place, "bytes": status.st_size, "changed_ns": status.st_mtime_ns}, (source,))


def _identity(encoder: Encoder) -> str:
    """What an encoder does to any code in use, as a hash: where it was written down does not count."""
    codes = np.arange(1 << 16, dtype=np.uint32)
    return hashlib.sha256(encoder.encode(codes).tobytes()).hexdigest()


def _cache_patch(
    arguments: dict[str, Any], part: Path, *, folder: Path, identity: Mapping[str, Any], encoder: Encoder | None
) -> None:
    """Make the entry of a patch; run in any process."""
    path = Path(arguments["path"])
    settings = CompositeSettings.model_validate(identity["composites"])
    known = folder / PatchName.of(path).id
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: must be a readable patch; check the file") from error
    computed = sha256_json({"code": identity["code"], "composites": identity["composites"], "sha256": digest})
    fingerprint = sha256_json({"computed": computed, "encoder": identity["encoder"]})
    with new_entry(part.parent, part.name, fingerprint=fingerprint) as entry, open_patch(path) as patch:
        earlier = _earlier(known, computed)
        if earlier is not None:
            entry.facts |= earlier
            for name in _COMPUTED:
                _put(entry, name, map_array(known / f"{name}.npy"))
        else:
            made = patch_composites(patch, settings, threads=_threads())
            observed: NDArray[np.bool_] = np.logical_and.reduce(made.counts.any(axis=(2, 3)), axis=1)
            entry.facts |= {
                "patch": str(path),
                "sha256": digest,
                "computed": computed,
                "bands": list(settings.bands),
                "edges": [str(day) for day in made.edges],
                # From 1; without data in one band at least.
                "empty_periods": (1 + np.flatnonzero(~observed)).tolist(),
                "added": sorted(set(patch.added.values())),
                "transform": list(patch.grid.transform[:6]) if patch.grid.transform else [],
                "crs": patch.grid.crs,
            }
            parcels = patch.parcels() if "parcels" in patch.groups else np.zeros(patch.grid.shape, np.uint32)
            for name, values in zip(_COMPUTED, (made.medians, made.counts, parcels), strict=True):
                _put(entry, name, values)
        if encoder is not None:
            labels = encoder.encode(patch.labels())
            entry.facts["class_px"] = np.bincount(labels.ravel(), minlength=len(encoder.names)).tolist()
            _put(entry, "labels", labels)


def _threads() -> int:
    """Threads for one patch: as many as this process may use cores, but one in a worker, which has others beside it."""
    if multiprocessing.parent_process() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _earlier(entry: Path, computed: str) -> dict[str, Any] | None:
    """Facts of an entry whose medians were made from the same patch in the same way, and are whole."""
    try:
        found = read_entry(entry.parent, entry.name)
        whole = all(found.hashes.get(name) == sha256_file(entry / f"{name}.npy") for name in _COMPUTED)
    except (DataError, OSError):
        return None
    if not whole or found.facts.get("computed") != computed:
        return None
    return {key: value for key, value in found.facts.items() if key != "class_px"}


def _put(entry: NewEntry, name: str, values: NDArray[Any]) -> None:
    entry.create(name, values.shape, values.dtype.str).write(values)
