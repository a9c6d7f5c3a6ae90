"""The cache of a data set: each scene's planes and charts on its working grid, made once, resumable and in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geocore.datasets.shift import look_over, pixel_attribute
from geocore.errors import DataError
from geocore.jobs.job import Job, JobResult, Source
from geocore.jobs.runner import run_jobs
from geocore.raster.grid import Window
from geocore.raster.npy_store import new_entry
from geocore.storage.files import sha256_file, sha256_json, storage_errors
from seaice_multitask.charts import MASKED
from seaice_multitask.config import WorkingSettings
from seaice_multitask.labels import has_charts, read_charts
from seaice_multitask.names import reference_of, scene_id
from seaice_multitask.resampling import FAR, PLANES, PROBE_PX, reduce_chart, standard_planes, working_scene
from seaice_multitask.scenes import open_scene, packed_variables

if TYPE_CHECKING:
    from seaice_multitask.config import PrepareSettings

FOLDER: Final = "cache"
"""Folder of the entries within a data set."""

# Another number makes all entries anew: for changes of the code that change what it computes.
_VERSION: Final = 2
_CHUNK_BYTES: Final = 1 << 25


def cache_scenes(
    settings: PrepareSettings, scenes: Sequence[Path], on_done: Callable[[JobResult], None] | None = None
) -> list[JobResult]:
    """Bring scenes to the working grid; those that are in the cache already are left as they are.

    Args:
        settings: where to, which channels, which grid.
        scenes: files.
        on_done: called after each scene.

    Returns:
        How each scene ended; a failed one says why in one line.

    Raises:
        StorageError: the disk is full or closed.
    """
    identity = {
        "version": _VERSION,
        "channels": list(settings.channels),
        "working": settings.working.model_dump(mode="json"),
    }
    jobs = [_job(path, settings.references) for path in scenes]
    work = partial(_cache_scene, identity=identity)
    with storage_errors(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
    return run_jobs(jobs, work, settings.out / FOLDER, identity=identity, workers=settings, on_done=on_done)


def _job(path: Path, references: Path | None) -> Job:
    reference = reference_of(path, references)
    files = {"scene": path, **({} if reference is None else {"reference": reference})}
    arguments: dict[str, Any] = {}
    sources = []
    for name, file in files.items():
        arguments[name] = {"path": os.path.realpath(file)}
        with suppress(OSError):  # of a file that cannot be read its job says why
            status = file.stat()
            # A file that was replaced is read again; the entry itself holds the hash of what was read.
            arguments[name] |= {"bytes": status.st_size, "changed_ns": status.st_mtime_ns}
            sources.append(Source.of(file))
    return Job(scene_id(path), arguments, tuple(sources))


def _cache_scene(arguments: dict[str, Any], part: Path, *, identity: Mapping[str, Any]) -> None:
    """Make the entry of a scene; run in any process."""
    channels, working = identity["channels"], WorkingSettings.model_validate(identity["working"])
    path = Path(arguments["scene"]["path"])
    labelled = path
    # A scene's own charts go first: a reference is for scenes that came without.
    if "reference" in arguments and not has_charts(path):
        labelled = Path(arguments["reference"]["path"])
    with open_scene(path, channels) as fine, working_scene(fine, channels, working) as scene:
        look_over(scene, PLANES, standard_planes(channels), far=FAR, size_px=PROBE_PX)
        charts = read_charts(labelled)
        for name, chart in charts.items():
            if chart.shape != fine.grid.shape:
                raise DataError(
                    f"{labelled}: chart {name} has {chart.shape[0]} x {chart.shape[1]} pixels, but the scene has "
                    f"{fine.grid.height} x {fine.grid.width}: they must match; get both again"
                )
        hashes = {str(file): sha256_file(file) for file in {path, labelled}}
        fingerprint = sha256_json({"identity": identity, "hashes": [hashes[str(path)], hashes[str(labelled)]]})
        with new_entry(part.parent, part.name, fingerprint=fingerprint) as entry:
            rows, cols = scene.grid.shape
            planes = entry.create(PLANES, (len(channels), rows, cols), "float32")
            step = max(1, _CHUNK_BYTES // (4 * len(channels) * cols))
            for row in range(0, rows, step):
                window = Window(row, 0, min(step, rows - row), cols)
                planes.write(scene.read_layers(window, [PLANES])[PLANES].values)
            for name, chart in charts.items():
                reduced = reduce_chart(chart, working)
                entry.create(name, reduced.shape, "uint8").write(reduced)
                entry.facts[f"{name}_px"] = int(np.count_nonzero(reduced != MASKED))
                # At 80 m, where scores are counted.
                found = np.flatnonzero(np.bincount(chart.ravel(), minlength=MASKED + 1)[:MASKED])
                entry.facts[f"{name}_classes"] = found.tolist()
            entry.facts |= {
                "scene": str(path),
                "packed": packed_variables(fine),
                "charts": str(labelled),
                "hashes": hashes,
                "bytes": labelled.stat().st_size,
                "lines": fine.grid.height,
                "samples": fine.grid.width,
                # Of the working grid.
                **pixel_attribute(scene.grid),
            }
