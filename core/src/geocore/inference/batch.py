"""Batch prediction: many scenes mapped with one network into a folder of products, with a record of how.

    prediction = BatchPrediction(settings.output, checkpoint, identity)
    scenes = prediction.run("scenes", scene_jobs(found, scene_hash), MapScene(settings), products=product_paths)
    prediction.finish({"scenes": scenes}, told=told, maps=maps)

A scene whose products are there, as these settings and weights made them, is not mapped again, and one that fails
keeps no other from being mapped. Beside the products, the folder holds

    all_*.vrt           the maps of all scenes as one, where there are several with a georeference
    run.json            each call: when, checkpoint, settings, and once it has ended a summary of each scene, and why
                        others failed
    .geocore/scenes/    what the job of each scene leaves: its summary
    .geocore/parts/     parts of the chunks of scenes that are being mapped; gone when all are
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geocore.errors import DataError, SceneError, UserError
from geocore.jobs.job import Job, JobFunction, JobResult, Source, part_path, refuse_other_purposes
from geocore.jobs.runner import remove_merged, run_jobs
from geocore.raster.mosaic import write_mosaics
from geocore.raster.paths import Location, redacted
from geocore.raster.products import files_of_scene
from geocore.settings import WorkerSettings, differences
from geocore.storage.documents import read_json
from geocore.storage.files import patient_lock, real_folder, remove_leftovers
from geocore.storage.records import RECORD, read_calls, start_record, write_calls
from geocore.terminal import one_line, progress

if TYPE_CHECKING:
    from geocore.training.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

STATE: Final = ".geocore"
"""Folder, hidden from a GIS, of what lets the same command go on."""
SUMMARY: Final = "summary.json"
"""In the part of a scene that is a folder, because it keeps more than its summary."""
_UNREAD: Final = "unread"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of things of one kind."""

    kind: str
    """What they are called in messages: scenes, patches."""
    outcomes: list[JobResult]
    summaries: dict[str, Any]
    """Name -> what the job says of it, a JSON value; of those whose products are there."""
    endings: tuple[str, ...] = ()
    """What comes behind the name in those of its products."""

    @property
    def failed(self) -> list[JobResult]:
        """Those that have no products."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]


@dataclass(frozen=True, slots=True)
class BatchPrediction:
    """Scenes that are mapped with one network; the same prediction again goes on with what is missing."""

    output: Path
    """Folder for the products."""
    checkpoint: Checkpoint
    """Where the network comes from."""
    identity: Mapping[str, Any]
    """JSON values that decide the products beside the scene: settings, hash of the weights."""
    begun: float = field(default_factory=time.monotonic)
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    """By which the call is found again in the record."""

    def __post_init__(self) -> None:
        card = self.checkpoint.card
        published = str(card["data_hash"]).startswith("published:")
        if "config" in card and card["config"].get("data") is None and not published:
            logger.warning(
                "%s was trained on the built-in sample and knows drawn data only: its maps of anything else mean "
                "nothing",
                self.checkpoint.path.parent.parent,
            )

    def run(
        self,
        kind: str,
        jobs: Sequence[Job],
        work: JobFunction,
        *,
        products: Callable[[str], Iterable[Path]],
        workers: int | WorkerSettings = 0,
    ) -> BatchResult:
        """Make the products of all scenes that lack some.

        May be called again for products that are made of those of several scenes.

        Args:
            kind: what the scenes are called in messages, in the plural.
            jobs: one for each scene, by its name, such as those of `scene_jobs`.
            work: writes the products of a scene; its part is a summary in JSON, or a folder with one as `SUMMARY`. It
                may keep parts of chunks in the `chunk_dir`, which goes once the products are there.
            products: name -> the files that the scene becomes; when one is gone or changed, all are made again, and
                what was changed is kept beside them. Can be pickled where there are workers.
            workers: as for `run_jobs`; 0 where the work itself shares out the chunks of each scene.

        Raises:
            Incomplete: other shards have not done their share yet.
            RunError: workers or scheduler cannot do the work, the folder holds a training run, or a call with other
                settings or weights is at work in it.
            StorageError: the folder cannot be written.
        """
        self._begin()
        sources = {job.key: job.sources for job in jobs}
        with progress(len(jobs), kind) as bar:

            def ended(outcome: JobResult) -> None:
                # Chunks of a scene that became another one are of nobody knows which.
                if outcome.is_there or not all(source.is_same for source in sources[outcome.key]):
                    remove_merged(_parts(self.output, outcome.key))
                bar.advance()

            outcomes = run_jobs(
                jobs,
                _ReadableWork(work),
                self._done,
                identity=self.identity,
                products=products,
                workers=workers,
                on_done=ended,
            )
        summaries = {outcome.key: _summary(self.part(outcome.key)) for outcome in outcomes if outcome.is_there}
        endings = [path.name.removeprefix(job.key) for job in jobs[:1] for path in products(job.key)]
        return BatchResult(kind, outcomes, summaries, tuple(endings))

    def part(self, name: str) -> Path:
        """What the job of a scene leaves: a file, or a folder with its summary."""
        return part_path(self._done, name)

    def finish(
        self,
        groups: Mapping[str, BatchResult],
        *,
        told: Callable[[Mapping[str, Any]], str],
        maps: Callable[[str], Sequence[Path]],
    ) -> None:
        """Add this call to the record, join the maps, and print what was made, how much of it, and what to open.

        Args:
            groups: name in the record -> what became of things of that kind; first the scenes, then what was made of
                several of them.
            told: what the summaries of scenes say of what was found, all together: `12 slumps on 0.3 km2`.
            maps: name of a scene -> the maps that are joined with those of other scenes, the one to open first at the
                front.

        Raises:
            DataError: some failed; names all, with the reasons. The products of the others are there.
            StorageError: the record cannot be written.
        """
        failed = [outcome for group in groups.values() for outcome in group.failed]
        self._record(
            {
                "seconds": round(time.monotonic() - self.begun, 1),
                "products": sorted({ending for group in groups.values() for ending in group.endings}),
                **{name: group.summaries for name, group in groups.items()},
                "failed": {outcome.key: outcome.message for outcome in failed},
            }
        )
        with suppress(OSError):  # not empty while scenes that failed keep what they have
            (self.output / STATE / "parts").rmdir()
        kind, scenes = next(iter(groups.items()))
        made = f": {told(scenes.summaries)}" if scenes.summaries else ""
        print(
            one_line(f"{len(scenes.summaries)} of {len(scenes.outcomes)} {scenes.kind} mapped in {self.output}{made}")
        )
        if scenes.summaries:
            joined = self._join(kind, maps) or maps(next(iter(scenes.summaries)))[:1]
            named = f"open {', '.join(map(str, joined))}; how everything was made stands in {self.output / RECORD}"
            print(one_line(named))
        if failed:
            total = sum(len(group.outcomes) for group in groups.values())
            kinds = " and ".join(group.kind for group in groups.values() if group.outcomes)
            lines = "; ".join(  # most reasons begin with the file, and so with its scene
                outcome.message
                if outcome.message.startswith(f"{outcome.key}:")
                else f"{outcome.key}: {outcome.message}"
                for outcome in failed
            )
            raise DataError(f"{len(failed)} of {total} {kinds} failed: {lines}")

    def _join(self, kind: str, maps: Callable[[str], Sequence[Path]]) -> list[Path]:
        """Join all scenes in the folder, those of earlier calls too.

        Returns:
            What the maps to open first became, a file for each CRS; empty where there is one scene.
        """
        # By name, so that which of two overlapping scenes lies on top does not depend on when each was mapped.
        names = sorted({name for call in read_calls(self.output) for name in call.get(kind, {})})
        joined: list[list[Path]] = []
        for of_kind in zip(*(maps(name) for name in names), strict=True):
            ending = of_kind[0].name.removeprefix(names[0]).removesuffix(of_kind[0].suffix)
            there = [path for path in of_kind if path.exists()]
            joined.append(write_mosaics(self.output, f"all{ending}", there))
        return joined[0] if joined else []

    def _begin(self) -> None:
        """Enter this call into the record, so that it says whose maps these are even if the call is killed.

        Raises:
            RunError: the folder holds something else, which is not written into.
            StorageError: the folder cannot be written.
        """
        calls = read_calls(self.output)
        if any(call.get("token") == self.token for call in calls):
            return
        refuse_other_purposes(self._done, dict(self.identity))
        remove_leftovers(self.output)
        for name in ("scenes", "parts"):
            remove_leftovers(real_folder(self.output, STATE, name).parent)
        others = list(differences(calls[-1].get("identity"), dict(self.identity))) if calls else []
        if others:
            logger.warning(
                "%s: was last mapped into with other settings or weights (%s): scenes that are mapped again change",
                self.output,
                "; ".join(others),
            )
        self._record(
            start_record()
            | {
                "token": self.token,
                "checkpoint": str(self.checkpoint.path),
                "data_hash": self.checkpoint.card["data_hash"],
                "identity": self.identity,
            }
        )

    def _record(self, values: Mapping[str, Any]) -> None:
        """Add to what the record says of this call; two processes that end together both find their place."""
        with patient_lock(self.output / STATE):
            calls = read_calls(self.output)
            own = next((call for call in calls if call.get("token") == self.token), None)
            if own is None:
                calls.append(own := {})
            own |= values
            write_calls(self.output, calls)

    @property
    def _done(self) -> Path:
        return self.output / STATE / "scenes"


def scene_jobs(places: Mapping[str, Location], digest: Callable[[Location], str]) -> list[Job]:
    """A job for each scene, with the arguments `path` and `sha256`, so that a changed scene is mapped anew.

    One that cannot be read has the argument `unread` in place of its hash, and fails with it when its turn comes.

    Args:
        places: name of each scene -> where it lies.
        digest: hash of a scene's content.
    """
    jobs = []
    for name, place in places.items():
        # A worker may run in another folder; an address is a text and stays as it is.
        path = place.absolute() if isinstance(place, Path) else place
        arguments = {"path": str(path)}
        sources: tuple[Source, ...] = ()
        try:
            sources = tuple(map(Source.of, files_of_scene(path)))
            arguments["sha256"] = digest(path)
        except UserError as error:
            arguments[_UNREAD] = str(error)
        except OSError as error:
            named = "" if error.filename in (None, str(path)) else f" needs {error.filename}, which"
            arguments[_UNREAD] = (
                f"{redacted(path)}:{named} cannot be read ({error.strerror}); check the path, and who may read it"
            )
        jobs.append(Job(name, arguments, sources))
    return jobs


@dataclass(frozen=True, slots=True)
class _ReadableWork:
    """The work of scenes that could be read."""

    work: JobFunction

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        if _UNREAD in arguments:
            raise SceneError(arguments[_UNREAD])
        self.work(arguments, part)


def chunk_dir(output: Path, name: str) -> Path:
    """Where the chunks of a scene are kept until its products are there.

    Args:
        output: folder of the prediction.
        name: of the scene.

    Raises:
        StorageError: a link is in the way.
    """
    return real_folder(output, *_parts(output, name).relative_to(output).parts)


def _parts(output: Path, name: str) -> Path:
    return part_path(output / STATE / "parts", name)


def _summary(part: Path) -> Any:
    return read_json(part / SUMMARY if part.is_dir() else part, finite=False)
