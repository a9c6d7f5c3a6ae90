"""Batch prediction: what is there stays, what is gone is made again, what fails is listed behind the others."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import geocore.jobs.job
from geocore.errors import DataError, RunError, SceneError, StorageError
from geocore.inference.batch import SUMMARY, BatchPrediction, BatchResult, chunk_dir, scene_jobs
from geocore.jobs.job import Incomplete, Job, part_path
from geocore.jobs.runner import merging, run_jobs, run_sharded
from geocore.raster.grid import Grid
from geocore.raster.write import write_raster
from geocore.settings import WorkerSettings
from geocore.storage.files import sha256_file
from geocore.training.checkpoint import Checkpoint

CHUNKS = ("r0", "r1")


def prediction_of(output: Path, **identity: Any) -> BatchPrediction:
    card = {"data_hash": "d", "versions": {"geocore": "0.1.0"}}
    return BatchPrediction(
        output, Checkpoint(output.parent / "step-000002", 2, {}, card, [], "w", {}), {"weights": "w"} | identity
    )


def products(output: Path, name: str) -> list[Path]:
    return [output / f"{name}_pred.tif", output / f"{name}.csv"]


def write_scene(arguments: dict[str, Any], part: Path, *, output: Path) -> None:
    """A toy scene is a file with one number; twice that number is its map, and an odd one cannot be mapped."""
    path = Path(arguments["path"])
    number = int(path.read_text())
    if number % 2:
        raise SceneError(f"{path.name}: {number} is odd; give an even one")
    for product in products(output, path.stem):
        product.write_text(str(2 * number))
    part.write_text(json.dumps({"number": number}))


def write_chunk(arguments: dict[str, Any], part: Path) -> None:
    part.write_text(arguments["chunk"])


def write_by_chunks(
    arguments: dict[str, Any], part: Path, *, output: Path, settings: WorkerSettings, order: tuple[str, ...]
) -> None:
    """As the jobs with wide scenes do: chunks are shared out, whoever finds all of them joins."""
    name = Path(arguments["path"]).stem
    folder = chunk_dir(output, name)
    jobs = [Job(chunk, {"chunk": chunk}) for chunk in CHUNKS]
    run_jobs(jobs, write_chunk, folder, identity=1, workers=settings.turned(order.index(name)))
    with merging(folder, [part_path(folder, chunk) for chunk in CHUNKS]):
        text = " ".join(part_path(folder, chunk).read_text() for chunk in CHUNKS)
        for product in products(output, name):
            product.write_text(text)
        part.mkdir()
        (part / "kept").write_text(text)
    (part / SUMMARY).write_text(json.dumps({"chunks": len(CHUNKS)}))


def scenes_in(folder: Path, **numbers: int) -> list[Job]:
    folder.mkdir(exist_ok=True)
    for name, number in numbers.items():
        (folder / name).with_suffix(".txt").write_text(str(number))
    return scene_jobs({name: folder / f"{name}.txt" for name in numbers}, sha256_file)


def mapped(prediction: BatchPrediction, jobs: list[Job]) -> BatchResult:
    output = prediction.output
    return prediction.run("scenes", jobs, partial(write_scene, output=output), products=partial(products, output))


def told(summaries: dict[str, Any]) -> str:
    return f"{sum(summary['number'] for summary in summaries.values())} in all"


def finish(prediction: BatchPrediction, groups: dict[str, BatchResult], told: Any = told) -> None:
    prediction.finish(groups, told=told, maps=lambda name: products(prediction.output, name)[:1])


def calls(output: Path) -> list[dict[str, Any]]:
    return json.loads((output / "run.json").read_text())["calls"]


def times(paths: list[Path]) -> list[int]:
    return [path.stat().st_mtime_ns for path in paths]


def test_a_survey_maps_records_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prediction = prediction_of(tmp_path / "maps", flips=True)
    scenes = mapped(prediction, scenes_in(tmp_path / "raw", a=2, b=4))
    assert [outcome.status for outcome in scenes.outcomes] == ["done", "done"] and scenes.failed == []
    assert (tmp_path / "maps/b_pred.tif").read_text() == "8"
    finish(prediction, {"scenes": scenes})
    maps = tmp_path / "maps"
    assert capsys.readouterr().out == (
        f"2 of 2 scenes mapped in {maps}: 6 in all\n"
        f"open {maps}/a_pred.tif; how everything was made stands in {maps}/run.json\n"
    )
    (call,) = calls(maps)
    assert call["versions"]["numpy"] and call["started"][:2] == "20" and call["command"] and call["seconds"] >= 0
    wanted = ("checkpoint", "data_hash", "identity", "scenes", "failed")
    assert {key: call[key] for key in wanted} == {
        "checkpoint": str(tmp_path / "step-000002"),
        "data_hash": "d",
        "identity": {"weights": "w", "flips": True},
        "scenes": {"a": {"number": 2}, "b": {"number": 4}},
        "failed": {},
    }
    # What a GIS shows of the folder: products and the record.
    assert sorted(path.name for path in maps.iterdir() if path.name[0] != ".") == [
        *("a.csv", "a_pred.tif", "b.csv", "b_pred.tif"),
        "run.json",
    ]
    assert [path.name for path in maps.iterdir() if path.name[0] == "."] == [".geocore"]


def test_the_record_keeps_earlier_calls(tmp_path: Path) -> None:
    output = tmp_path / "maps"
    jobs = scenes_in(tmp_path / "raw", a=2, b=4, c=5)
    first = prediction_of(output)
    finish(first, {"scenes": mapped(first, jobs[:1])})
    second = prediction_of(output, flips=True)
    with pytest.raises(DataError, match="^1 of 2 scenes failed: c: "):
        finish(second, {"scenes": mapped(second, jobs[1:])})
    found = calls(output)
    assert [list(call["scenes"]) for call in found] == [["a"], ["b"]]
    assert [call["identity"].get("flips") for call in found] == [None, True]
    assert [list(call["failed"]) for call in found] == [[], ["c"]]


def test_a_network_of_the_built_in_sample_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def begin(data: str | None, data_hash: str = "d") -> None:
        card = {"data_hash": data_hash, "config": {"data": data}}
        BatchPrediction(tmp_path, Checkpoint(tmp_path / "run/checkpoints/step-000002", 2, {}, card, [], "w", {}), {})

    begin("dataset")
    begin(None, "published:sen1floods11")
    assert caplog.messages == []
    begin(None)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{tmp_path}/run was trained on the built-in sample")


@pytest.mark.parametrize("content", ["{", "[]", '{"job": "floods", "data_hash": "d", "settings": {}}'])
def test_a_folder_that_holds_something_else_is_not_written_into(tmp_path: Path, content: str) -> None:
    prediction, jobs = prediction_of(tmp_path / "run"), scenes_in(tmp_path / "raw", a=2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(content)
    with pytest.raises(RunError, match="give another folder as --output$"):
        mapped(prediction, jobs)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    assert (tmp_path / "run/run.json").read_text() == content


def test_georeferenced_maps_of_all_calls_are_one_to_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "maps"

    def write(arguments: dict[str, Any], part: Path) -> None:
        name = Path(arguments["path"]).stem
        crs = "EPSG:32634" if name == "3" else "EPSG:32633"
        grid = Grid(16, 16, (10.0, 0.0, 160.0 * int(name), 0.0, -10.0, 160.0), crs, length_unit="m")
        write_raster(output / f"{name}_pred.tif", np.full((16, 16), int(name), np.uint8), grid=grid, nodata=255)
        part.write_text(json.dumps({"number": 1}))

    def one_call(*names: str) -> str:
        prediction = prediction_of(output)
        jobs = scenes_in(tmp_path / "raw", **dict.fromkeys(names, 2))
        scenes = prediction.run("scenes", jobs, write, products=lambda name: [output / f"{name}_pred.tif"])
        finish(prediction, {"scenes": scenes})
        return capsys.readouterr().out.splitlines()[-1]

    # A single scene needs none.
    assert one_call("0").startswith(f"open {output}/0_pred.tif;") and not list(output.glob("*.vrt"))
    assert one_call("1", "2").startswith(f"open {output}/all_pred.vrt;")
    with rasterio.open(output / "all_pred.vrt") as joined:
        assert joined.read(1)[0, ::16].tolist() == [0, 1, 2]
    zones = f"open {output}/all_pred_EPSG32633.vrt, {output}/all_pred_EPSG32634.vrt;"
    assert one_call("3").startswith(zones)
    assert not (output / "all_pred.vrt").exists()


def test_which_of_two_maps_lies_on_top_does_not_depend_on_when_each_was_made(tmp_path: Path) -> None:
    grid = Grid(16, 16, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), "EPSG:32633", length_unit="m")

    def joined(output: Path, *calls: str) -> int:
        def write(arguments: dict[str, Any], part: Path) -> None:
            name = Path(arguments["path"]).stem
            write_raster(output / f"{name}_pred.tif", np.full((16, 16), ord(name), np.uint8), grid=grid)
            part.write_text(json.dumps({"number": 1}))

        for names in calls:
            prediction, jobs = prediction_of(output), scenes_in(tmp_path / "raw", **dict.fromkeys(names, 2))
            scenes = prediction.run("scenes", jobs, write, products=lambda name: [output / f"{name}_pred.tif"])
            finish(prediction, {"scenes": scenes})
        with rasterio.open(output / "all_pred.vrt") as dataset:
            return int(dataset.read(1)[0, 0])

    assert joined(tmp_path / "once", "ab") == joined(tmp_path / "in-turns", "b", "a") == ord("b")


def test_a_second_run_maps_only_what_changed(tmp_path: Path) -> None:
    prediction = prediction_of(tmp_path / "maps")
    jobs = scenes_in(tmp_path / "raw", a=2, b=4)
    mapped(prediction, jobs)
    kept, changed = products(prediction.output, "a"), products(prediction.output, "b")
    before = times(kept)
    again = mapped(prediction, scenes_in(tmp_path / "raw", a=2, b=6))
    assert [outcome.status for outcome in again.outcomes] == ["skipped", "done"]
    assert again.summaries == {"a": {"number": 2}, "b": {"number": 6}}
    assert times(kept) == before and changed[0].read_text() == "12"
    # Other settings make all anew.
    other = mapped(prediction_of(prediction.output, flips=True), scenes_in(tmp_path / "raw", a=2))
    assert [outcome.status for outcome in other.outcomes] == ["done"]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_scene_whose_product_was_deleted_is_mapped_again(tmp_path: Path, lost: int) -> None:
    prediction, jobs = prediction_of(tmp_path / "maps"), scenes_in(tmp_path / "raw", a=2, b=4)
    mapped(prediction, jobs)
    others = times(products(prediction.output, "b"))
    products(prediction.output, "a")[lost].unlink()
    assert [outcome.status for outcome in mapped(prediction, jobs).outcomes] == ["done", "skipped"]
    assert products(prediction.output, "a")[lost].read_text() == "4"
    assert times(products(prediction.output, "b")) == others


@pytest.mark.parametrize("moment", range(4))
def test_maps_of_other_settings_are_never_taken_for_those_of_these(tmp_path: Path, moment: int) -> None:
    """Mapped with A, then with B, which is killed somewhere, then with A again: all maps are A's."""
    jobs, output = scenes_in(tmp_path / "raw", a=2, b=4), tmp_path / "maps"
    kept = partial(products, output)

    class Killed(BaseException):
        """Nothing catches it, as nothing catches a kill."""

    def write(arguments: dict[str, Any], part: Path, *, factor: int, moments: list[int]) -> None:
        number = int(Path(arguments["path"]).read_text())
        for product in products(output, Path(arguments["path"]).stem):
            product.write_text(str(factor * number))
            if not moments:
                raise Killed
            moments.pop()
        part.write_text(json.dumps({"number": number}))

    def mapped_with(factor: int, moments: int) -> list[str]:
        work = partial(write, factor=factor, moments=[0] * moments)
        scenes = prediction_of(output, factor=factor).run("scenes", jobs, work, products=kept)
        return [outcome.status for outcome in scenes.outcomes]

    assert mapped_with(3, 9) == ["done", "done"]
    with pytest.raises(Killed):
        mapped_with(5, moment)
    assert mapped_with(3, 9) == ["done", "skipped" if moment < 2 else "done"]
    assert [path.read_text() for name in "ab" for path in kept(name)] == ["6", "6", "12", "12"]
    assert [call["identity"]["factor"] for call in calls(output)] == [3, 5, 3]


def test_other_settings_in_one_folder_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs, output = scenes_in(tmp_path / "raw", a=2), tmp_path / "maps"
    for threshold in (0.5, 0.5, 0.7):
        mapped(prediction_of(output, threshold=threshold), jobs)
    assert caplog.messages == [
        f"{output}: was last mapped into with other settings or weights (threshold = 0.5 there, 0.7 now): scenes that "
        "are mapped again change"
    ]


def test_a_changed_product_is_made_again_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prediction, jobs = prediction_of(tmp_path / "maps"), scenes_in(tmp_path / "raw", a=2, b=4)
    mapped(prediction, jobs)
    pred, table = products(prediction.output, "a")
    table.write_text("corrected by hand")
    assert [outcome.status for outcome in mapped(prediction, jobs).outcomes] == ["done", "skipped"]
    assert [pred.read_text(), table.read_text()] == ["4", "4"]
    assert (tmp_path / "maps/a.csv.changed").read_text() == "corrected by hand"
    assert not (tmp_path / "maps/a_pred.tif.changed").exists()
    assert caplog.messages[-1].startswith(f"{table} was changed since it was made: made again")


def test_products_are_read_again_only_where_they_look_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, jobs = prediction_of(tmp_path / "maps"), scenes_in(tmp_path / "raw", a=2)
    mapped(prediction, jobs)
    read, sha256 = list[str](), geocore.jobs.job.sha256_file
    monkeypatch.setattr("geocore.jobs.job.sha256_file", lambda path: [read.append(path.name), sha256(path)][1])
    assert mapped(prediction, jobs).outcomes[0].status == "skipped" and read == ["a"]
    os.utime(tmp_path / "maps/a.csv")  # as a copy of the folder may have it
    assert mapped(prediction, jobs).outcomes[0].status == "skipped" and read[1:] == ["a", "a.csv"]


def test_leftovers_of_killed_calls_go_with_the_next_start(tmp_path: Path, killed_writer: str) -> None:
    output, jobs = tmp_path / "maps", scenes_in(tmp_path / "raw", a=2)
    for folder in (output, output / ".geocore", output / ".geocore/scenes", output / ".geocore/scenes/.done"):
        folder.mkdir()
        for name in (f".part-{killed_writer}.tif", f".part-{killed_writer}.tif.working.tif", f".part-{killed_writer}"):
            (folder / name).write_text("half")
    (output / ".part-of-mine.tif").write_text("mine")
    mapped(prediction_of(output), jobs)
    assert [path.name for path in output.rglob(".part-*")] == [".part-of-mine.tif"]


@pytest.mark.parametrize("place", [".geocore", ".geocore/scenes", ".geocore/parts", ".geocore/parts/a"])
def test_nothing_is_kept_or_removed_behind_a_link(tmp_path: Path, place: str) -> None:
    output, mine, jobs = tmp_path / "maps", tmp_path / "mine", scenes_in(tmp_path / "raw", a=2)
    for folder in (mine, mine / "a", mine / "parts" / "a"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kept").write_text("mine")
    before = sorted(mine.rglob("*"))
    link = output / place
    link.parent.mkdir(parents=True)
    link.symlink_to(mine)
    prediction = prediction_of(output)

    def work(arguments: dict[str, Any], part: Path) -> None:
        chunk_dir(output, "a")
        write_scene(arguments, part, output=output)

    if place.endswith("a"):  # a scene of this name may not be mapped, others may
        (outcome,) = prediction.run("scenes", jobs, work, products=partial(products, output)).failed
        assert "symbolic link" in outcome.message
    else:
        with pytest.raises(StorageError, match="symbolic link"):
            prediction.run("scenes", jobs, work, products=partial(products, output))
    assert sorted(mine.rglob("*")) == before


def test_failed_scenes_are_listed_after_the_others_are_mapped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = prediction_of(tmp_path / "maps")
    scenes = mapped(prediction, scenes_in(tmp_path / "raw", a=1, b=2, c=3))
    reasons = [f"{name}: {name}.txt: {number} is odd; give an even one" for name, number in (("a", 1), ("c", 3))]
    with pytest.raises(DataError) as error:
        finish(prediction, {"scenes": scenes})
    assert str(error.value) == f"2 of 3 scenes failed: {'; '.join(reasons)}"
    assert "1 of 3 scenes mapped" in capsys.readouterr().out
    (record,) = calls(prediction.output)
    assert list(record["scenes"]) == ["b"] and products(prediction.output, "b")[0].exists()
    assert [f"{name}: {reason}" for name, reason in record["failed"].items()] == reasons
    # Mended, they are mapped, and they alone.
    again = mapped(prediction, scenes_in(tmp_path / "raw", a=2, b=2, c=4))
    assert [outcome.status for outcome in again.outcomes] == ["done", "skipped", "done"]


def test_what_is_made_of_several_scenes_is_recorded_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = prediction_of(tmp_path / "maps")
    scenes = mapped(prediction, scenes_in(tmp_path / "raw", a=1, b=2, c=4))

    def join(arguments: dict[str, Any], part: Path) -> None:
        if arguments["fails"]:
            raise DataError("grids differ")
        (prediction.output / "bc.tif").write_text("joined")
        part.write_text(json.dumps(arguments["names"]))

    def joined(fails: bool) -> dict[str, BatchResult]:
        jobs = [Job("bc", {"names": sorted(scenes.summaries), "fails": fails})]
        made = prediction.run("mosaics", jobs, join, products=lambda name: [prediction.output / f"{name}.tif"])
        return {"scenes": scenes, "joined": made}

    with pytest.raises(DataError, match=r"^2 of 4 scenes and mosaics failed: a: .*; bc: grids differ$"):
        finish(prediction, joined(fails=True))
    with pytest.raises(DataError, match=r"^1 of 4 scenes and mosaics failed: a: "):
        finish(prediction, joined(fails=False))
    assert capsys.readouterr().out.count("2 of 3 scenes mapped") == 2
    record = calls(prediction.output)[-1]
    assert record["joined"] == {"bc": ["b", "c"]} and list(record["failed"]) == ["a"]
    # Kinds of which there is nothing are not spoken of.
    with pytest.raises(DataError, match=r"^1 of 3 scenes failed: a: "):
        finish(prediction, {"scenes": scenes, "joined": BatchResult("mosaics", [], {})})


def test_shards_see_what_the_others_did_and_the_last_one_joins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, output = scenes_in(tmp_path / "raw", a=2, b=4, c=6), tmp_path / "maps"

    @run_sharded
    def predict(settings: WorkerSettings) -> None:
        prediction = prediction_of(output)
        work = partial(write_by_chunks, output=output, settings=settings, order=("a", "b", "c"))
        scenes = prediction.run("scenes", jobs, work, products=partial(products, output))
        finish(prediction, {"scenes": scenes}, told=lambda summaries: f"{len(summaries)} scenes")

    predict(WorkerSettings(shard="2/2"))
    assert "shard 2/2 has done its share; 3 of 3 are not there yet" in capsys.readouterr().out
    # A chunk of each scene, from another one on.
    made = {(path.parent.name, path.name) for path in (output / ".geocore/parts").glob("*/r*")}
    assert made == {("a", "r1"), ("b", "r0"), ("c", "r1")}
    assert not list(output.glob("*.tif")) and "scenes" not in calls(output)[0]
    predict(WorkerSettings(shard="1/2"))
    assert "3 of 3 scenes mapped" in capsys.readouterr().out
    assert (output / "c.csv").read_text() == "r0 r1" and not (output / ".geocore/parts").exists()
    # The first one, given again, finds all done.
    before = times(products(output, "a"))
    predict(WorkerSettings(shard="2/2"))
    assert "3 of 3 scenes mapped" in capsys.readouterr().out and times(products(output, "a")) == before


def test_scenes_themselves_may_be_shared_out(tmp_path: Path) -> None:
    jobs, prediction = scenes_in(tmp_path / "raw", a=2, b=4, c=6), prediction_of(tmp_path / "maps")
    work, made = partial(write_scene, output=prediction.output), partial(products, prediction.output)
    with pytest.raises(Incomplete) as rest:
        prediction.run("scenes", jobs, work, products=made, workers=WorkerSettings(shard="1/2"))
    assert rest.value.missing == ["b"] and made("c")[0].exists()
    scenes = prediction.run("scenes", jobs, work, products=made, workers=WorkerSettings(shard="2/2"))
    assert [outcome.status for outcome in scenes.outcomes] == ["skipped", "done", "skipped"]


def test_parts_of_a_scene_stay_when_it_fails_and_go_when_its_products_are_there(tmp_path: Path) -> None:
    jobs, output = scenes_in(tmp_path / "raw", a=2), tmp_path / "maps"
    prediction, broken = prediction_of(output), [True]

    def work(arguments: dict[str, Any], part: Path) -> None:
        folder = chunk_dir(output, "a")
        (folder / "r0").touch()
        if broken[0]:
            raise SceneError("1 of 2 chunks failed")
        write_scene(arguments, part, output=output)

    assert prediction.run("scenes", jobs, work, products=partial(products, output)).failed
    assert (chunk_dir(output, "a") / "r0").exists()
    broken[0] = False
    assert not prediction.run("scenes", jobs, work, products=partial(products, output)).failed
    assert not list((output / ".geocore/parts").iterdir())


def test_a_reason_that_names_its_scene_is_told_as_it_is(tmp_path: Path) -> None:
    def work(arguments: dict[str, Any], part: Path) -> None:
        raise SceneError(f"{Path(arguments['path']).stem}: another unit than in training")

    prediction = prediction_of(tmp_path / "maps")
    jobs = scenes_in(tmp_path / "raw", a=2)
    scenes = prediction.run("scenes", jobs, work, products=partial(products, prediction.output))
    with pytest.raises(DataError) as error:
        finish(prediction, {"scenes": scenes})
    assert str(error.value) == "1 of 1 scenes failed: a: another unit than in training"


def test_a_part_that_is_a_folder_keeps_more_than_its_summary(tmp_path: Path) -> None:
    jobs, output = scenes_in(tmp_path / "raw", a=2), tmp_path / "maps"
    prediction = prediction_of(output)
    work = partial(write_by_chunks, output=output, settings=WorkerSettings(), order=("a",))
    scenes = prediction.run("scenes", jobs, work, products=partial(products, output))
    assert scenes.summaries == {"a": {"chunks": 2}} and (prediction.part("a") / "kept").read_text() == "r0 r1"
    products(output, "a")[0].unlink()
    again = prediction.run("scenes", jobs, work, products=partial(products, output))
    assert again.outcomes[0].status == "done" and products(output, "a")[0].exists()


def test_tasks_hold_where_a_scene_lies_and_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("2")
    address = "https://there.org/b.tif?key=1"
    jobs = scene_jobs({"a": Path("a.txt"), "b": address}, lambda place: f"hash of {place}")
    assert [job.key for job in jobs] == ["a", "b"]
    assert jobs[0].arguments == {"path": str(tmp_path / "a.txt"), "sha256": f"hash of {tmp_path / 'a.txt'}"}
    assert jobs[1].arguments == {"path": address, "sha256": f"hash of {address}"}


ODD = ["my scene", "Fläche", "Fla\u0308che", ".hidden", "-x", "a\nb\tc", "<b>&'\"$1$", "50% #1", "x" * 240, "\udcff"]


def test_scenes_are_mapped_under_the_names_that_their_files_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction, folder = prediction_of(tmp_path / "maps"), tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(ODD):
        (folder / f"{name}.txt").write_text(str(2 * number))
    jobs = scene_jobs({name: folder / f"{name}.txt" for name in ODD}, sha256_file)
    assert [outcome.status for outcome in mapped(prediction, jobs).outcomes] == ["done"] * len(ODD)
    for number, name in enumerate(ODD):
        assert [path.read_text() for path in products(prediction.output, name)] == [str(4 * number)] * 2
    again = mapped(prediction, jobs)
    assert [outcome.status for outcome in again.outcomes] == ["skipped"] * len(ODD)
    assert again.summaries == {name: {"number": 2 * number} for number, name in enumerate(ODD)}
    prediction.finish({"scenes": again}, told=told, maps=lambda name: [])
    assert f"{len(ODD)} of {len(ODD)} scenes mapped" in capsys.readouterr().out
    assert calls(prediction.output)[0]["scenes"] == again.summaries


def test_a_scene_that_cannot_be_read_fails_when_its_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    jobs = scenes_in(tmp_path / "in", a=2, c=4)
    os.mkfifo(tmp_path / "in/pipe.txt")
    places = {name: tmp_path / f"in/{name}.txt" for name in ("a", "b", "pipe", "c")}

    def digest(place: Path) -> str:
        return sha256_file(place)

    def unread(place: Path) -> str:
        raise SceneError(f"{place}: is not understood")

    jobs = scene_jobs(places, digest)
    prediction = prediction_of(tmp_path / "maps")
    outcomes = {outcome.key: outcome for outcome in mapped(prediction, jobs).outcomes}
    assert [outcome.status for outcome in outcomes.values()] == ["done", "failed", "failed", "done"]
    assert outcomes["b"].message.startswith(f"{places['b']}: cannot be read (No such file or directory); check the")
    assert outcomes["pipe"].message.startswith(f"{places['pipe']}: cannot be read (is a named pipe); check the")
    assert [path.read_text() for path in products(prediction.output, "c")] == ["8", "8"]
    # One that can be read again is mapped, and the others stay.
    (tmp_path / "in/b.txt").write_text("6")
    again = mapped(prediction, scene_jobs({name: places[name] for name in ("a", "b", "c")}, digest))
    assert [outcome.status for outcome in again.outcomes] == ["skipped", "done", "skipped"]
    (failed,) = mapped(prediction, scene_jobs({"a": places["a"]}, unread)).failed
    assert failed.message == f"{places['a']}: is not understood"


def replaced_while_read(arguments: dict[str, Any], part: Path, *, output: Path, chunk: Path | None = None) -> None:
    """The scene becomes another one before it is mapped, and is put back when that is over."""
    path = Path(arguments["path"])
    path.rename(path.with_suffix(".aside"))
    path.write_text("8")
    if chunk is not None:
        run_jobs([Job("north", {"chunk": path.read_text()})], write_chunk, chunk, identity=1)
    write_scene(arguments, part, output=output)


def test_a_scene_that_becomes_another_one_while_it_is_mapped_is_mapped_anew(tmp_path: Path) -> None:
    output, path = tmp_path / "maps", tmp_path / "raw/a.txt"
    jobs = scenes_in(tmp_path / "raw", a=2)
    before = path.stat()
    chunk = chunk_dir(output, "a")
    work = partial(replaced_while_read, output=output, chunk=chunk)
    result = prediction_of(output).run("scenes", jobs, work, products=partial(products, output))
    (failed,) = result.failed
    assert failed.message == (
        f"{path}: became another file while it was read; leave it as it is and repeat the command"
    )
    assert result.summaries == {} and not chunk.exists()
    # Whoever puts it back as it was, with its time, has the scene that the hash stands for.
    path.with_suffix(".aside").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = scene_jobs({"a": path}, sha256_file)
    assert again[0].fingerprint(0) == jobs[0].fingerprint(0)
    assert [outcome.status for outcome in mapped(prediction_of(output), again).outcomes] == ["done"]
    assert (output / "a_pred.tif").read_text() == "4"


def test_a_scene_that_is_gone_by_the_end_has_no_map(tmp_path: Path) -> None:
    def read_and_remove(arguments: dict[str, Any], part: Path) -> None:
        write_scene(arguments, part, output=tmp_path / "maps")
        Path(arguments["path"]).unlink()

    jobs = scenes_in(tmp_path / "raw", a=2)
    result = prediction_of(tmp_path / "maps").run(
        "scenes", jobs, read_and_remove, products=partial(products, tmp_path / "maps")
    )
    assert [outcome.status for outcome in result.outcomes] == ["failed"]
