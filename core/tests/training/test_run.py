import errno
import json
import math
import multiprocessing
import os
import re
import signal

import pytest
import yaml

from geocore.errors import RunError, StorageError
from geocore.settings import DeviceSettings, Settings, TilingSettings, TrainingSettings, deciding, operational
from geocore.storage.files import sha256_file
from geocore.storage.records import read_metrics
from geocore.training.run import Run, default_run_name


class Example(Settings):
    data: str = operational("data", "folder")
    loss: str = deciding("dice", "loss")
    training: TrainingSettings = TrainingSettings()
    device: DeviceSettings = DeviceSettings()


def opened(folder, settings=None, *, data_hash="d1", task="snow", **options):
    return Run.open(folder, settings=settings or Example(), data_hash=data_hash, task=task, **options)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_new_run_holds_what_a_reader_needs(tmp_path):
    folder = tmp_path / "runs" / "a"
    with opened(folder) as run:
        assert run.checkpoints == folder / "checkpoints" and not run.finished and run.summary == {}
    assert yaml.safe_load((folder / "config.yaml").read_text()) == Example().model_dump(mode="json")
    (start,) = json.loads((folder / "environment.json").read_text())["starts"]
    assert {"torch", "numpy", "geocore"} <= set(start["versions"]) and start["command"]
    assert run.provenance["data_hash"] == "d1" and run.provenance["task"] == "snow"


def test_the_end_says_which_metrics_were_logged(tmp_path):
    with opened(tmp_path) as run:
        run.log(3, {"loss": 0.5})
        run.mark_finished({"steps": 3})
    assert run.summary == {"steps": 3, "metrics_sha256": sha256_file(tmp_path / "metrics.jsonl")}
    assert read_metrics(tmp_path) == [{"step": 3, "loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 0.4}\n')
    with pytest.raises(RunError, match="is not what the run wrote"):
        read_metrics(tmp_path)


def test_operational_settings_may_change(tmp_path):
    with opened(tmp_path):
        pass
    changed = Example(data="/elsewhere", training={"log_every": 3}, device={"threads": 2, "device": "cpu"})
    with opened(tmp_path, changed):
        pass
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["data"] == "/elsewhere"
    assert len(json.loads((tmp_path / "environment.json").read_text())["starts"]) == 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"settings": Example(loss="focal")}, 'loss = "dice" there, "focal" now'),
        ({"settings": Example(training={"seed": 4})}, "training.seed = 0 there, 4 now"),
        ({"settings": Example(training={"patience": 4})}, "training.patience = null there, 4 now"),
        ({"data_hash": "d2"}, 'data_hash = "d1" there, "d2" now'),
        ({"task": "ice"}, 'task = "snow" there, "ice" now'),
    ],
)
def test_a_folder_of_another_run_is_refused_naming_the_key(tmp_path, change, words):
    with opened(tmp_path):
        pass
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(RunError, match=re.escape(words)) as caught:
        opened(tmp_path, **change)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    with opened(tmp_path):
        """The refused start must not keep the lock."""


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"no run folder but holds thesis\.tex"):
        opened(tmp_path)
    (tmp_path / "thesis.tex").unlink()
    with opened(tmp_path):
        pass
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        opened(tmp_path)


def test_a_start_that_fails_before_anything_is_trained_leaves_nothing(tmp_path):
    new, empty = tmp_path / "runs" / "new", tmp_path / "empty"
    empty.mkdir()
    for folder in (new, empty):
        with pytest.raises(RuntimeError), opened(folder, tensorboard=True) as run:
            run.log(0, {"cost": 1.0})
            raise RuntimeError("no such weights")
        with opened(folder, Example(loss="focal")):
            """The corrected command may use the folder."""
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["new"]
    again = tmp_path / "runs" / "again"
    with pytest.raises(RuntimeError), opened(again):
        raise RuntimeError
    assert not again.exists()


def test_a_start_that_fails_later_keeps_the_run(tmp_path):
    for step, folder in ((1, tmp_path / "a"), (0, tmp_path / "b")):
        with pytest.raises(RuntimeError), opened(folder) as run:
            run.log(step, {"loss": 1.0})
            if step == 0:
                (run.checkpoints / "step-000001").mkdir(parents=True)
            raise RuntimeError
        assert (folder / "run.json").exists() and lines(folder) == [{"step": step, "loss": 1.0}]
        with pytest.raises(RuntimeError), opened(folder):  # a resumed run was not made by this start
            raise RuntimeError
        assert (folder / "run.json").exists() and (folder / "metrics.jsonl").exists()
        with pytest.raises(RunError, match="holds another run"):
            opened(folder, Example(loss="focal"))


def test_one_process_at_a_time(tmp_path):
    with opened(tmp_path):
        with pytest.raises(RunError, match="in use"):
            opened(tmp_path)
        with opened(tmp_path, main=False) as second:
            second.log(1, {"loss": 1.0})
            second.mark_finished({})
        assert not (tmp_path / "metrics.jsonl").exists() and not second.finished
    with opened(tmp_path):
        pass


def hold(folder, ready):
    run = opened(folder)
    ready.set()
    multiprocessing.Event().wait()
    run.close()


def test_the_lock_dies_with_its_owner(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(20)
    with pytest.raises(RunError, match="in use"):
        opened(tmp_path)
    process.kill()
    process.join()
    with opened(tmp_path):
        pass


def test_metrics_beyond_a_step_are_dropped_and_torn_lines_too(tmp_path):
    with opened(tmp_path) as run:
        for step in range(1, 6):
            run.log(step, {"loss": 1 / step, "iou": math.nan if step == 2 else 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with opened(tmp_path) as run:
        run.rewind(3)
        run.log(4, {"loss": 0.25})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert lines(tmp_path)[1]["iou"] is None
    assert not list(tmp_path.glob(".part-*"))


def test_a_line_of_metrics_is_whole_when_the_process_is_killed_after_it(tmp_path):
    def work():
        with opened(tmp_path) as run:
            run.log(1, {"loss": 0.5})
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'


def test_a_line_that_the_system_takes_in_pieces_is_whole_and_a_full_disk_is_named(tmp_path, monkeypatch):
    write = os.write
    with opened(tmp_path) as run:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
            run.log(1, {"loss": 0.5})
            run.log(2, {"loss": 0.25})
        assert [line["step"] for line in lines(tmp_path)] == [1, 2]

        def full(descriptor, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(StorageError, match=r"metrics\.jsonl: no space left on the disk"):
                run.log(3, {"loss": 0.1})
    assert len(lines(tmp_path)) == 2


def test_a_finished_run_says_so(tmp_path):
    with opened(tmp_path) as run:
        run.mark_finished({"best_score": math.nan, "steps": 10})
        assert run.finished
    with opened(tmp_path) as run:
        assert run.finished and run.summary == {"best_score": None, "steps": 10}
        run.mark_finished({"scores": {"iou": math.nan, "f1": 0.5}, "interval": (math.inf, 1.0)})
        assert run.summary == {"scores": {"iou": None, "f1": 0.5}, "interval": [None, 1.0]}


@pytest.mark.parametrize("content", [b"", b"{", b'{"steps": 3}', None])
def test_a_damaged_end_is_none_and_is_written_again(tmp_path, content):
    with opened(tmp_path) as run:
        run.mark_finished({"steps": 3})
        whole = (tmp_path / "finished.json").read_bytes()
    (tmp_path / "finished.json").write_bytes(whole.replace(b"3", b"4", 1) if content is None else content)
    with opened(tmp_path) as run:
        assert not run.finished and run.summary == {}
        run.mark_finished({"steps": 3})
        assert run.finished and (tmp_path / "finished.json").read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"[]", b'{"starts": 3}', b"\xff"])
def test_damage_to_what_is_recorded_of_earlier_starts_keeps_nobody_from_going_on(tmp_path, content, caplog):
    for _ in range(2):
        with opened(tmp_path):
            pass
    (tmp_path / "environment.json").write_bytes(content)
    with opened(tmp_path):
        pass
    assert caplog.messages == [f"{tmp_path / 'environment.json'}: is damaged: what it said of earlier starts is lost"]
    assert len(json.loads((tmp_path / "environment.json").read_text())["starts"]) == 1


def test_metrics_are_not_appended_to_what_a_link_leads_to(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    with opened(tmp_path / "run") as run:
        (tmp_path / "run/metrics.jsonl").symlink_to(mine)
        with pytest.raises(StorageError, match="symbolic link"):
            run.log(1, {"loss": 1.0})
    assert mine.read_text() == "mine"


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with opened(tmp_path, tensorboard=True) as run:
        run.log(1, {"loss": 0.5})
        run.log(2, {"loss": 0.25})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    with opened(tmp_path / "plain") as run:
        run.log(1, {"loss": 0.5})
    assert not (tmp_path / "plain" / "tensorboard").exists()


def test_the_name_follows_what_decides_the_result():
    name = default_run_name("snow", "small", Example(), "d1")
    assert re.fullmatch(r"runs/snow-small-[0-9a-f]{8}", name)
    assert default_run_name("snow", "small", Example(data="b", device={"threads": 3}), "d1") == name
    assert default_run_name("snow", "small", Example(loss="focal"), "d1") != name
    assert default_run_name("snow", "small", Example(), "d2") != name


def test_the_name_is_the_same_in_every_version():
    # A change here would make no run find its own folder again.
    settings = TilingSettings(size=128, overlap=32)
    assert default_run_name("snow", "small", settings, "d1") == "runs/snow-small-6236c589"


def test_closing_says_what_was_reached_and_what_comes_next(tmp_path):
    folder = tmp_path / "a run"
    with opened(folder) as run:
        run.mark_finished(
            {"primary": "iou", "best_score": 0.81234, "best_step": 40, "steps": 60, "stopped_early": True}
        )
        assert run.closing("toy-evaluate").splitlines() == [
            f"best on validation: iou 0.8123 at step 40 of 60 steps, stopped early; curves: {folder}/report.html",
            f"evaluate it: toy-evaluate --run '{folder}'",
        ]
        run.mark_finished({"primary": "iou", "best_score": math.nan, "best_step": 60, "steps": 60})
        assert run.closing("toy-evaluate").startswith("best on validation: none gave a score, in 60 steps; ")
