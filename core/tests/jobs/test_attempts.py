"""Attempts at one job, at the same time or after a kill, never meet."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from geocore.jobs.job import Job, JobResult, Worker, attempt, attempt_dir, begun, part_path, take_begun


def test_two_attempts_at_one_task_have_folders_of_their_own(tmp_path: Path) -> None:
    with attempt_dir(tmp_path) as attempts:
        with attempt(attempts, "t0") as first:
            (first / "part").write_text("first")
            with attempt(attempts, "t0") as second:
                (second / "part").write_text("second")
                assert begun(attempts) == {"t0"}
            # The end of one leaves the other as it is.
            assert (first / "part").read_text() == "first" and begun(attempts) == {"t0"}
        assert begun(attempts) == set()


def test_an_attempt_that_goes_on_does_not_hinder_another_nor_replace_what_it_made(tmp_path: Path) -> None:
    """As when a cluster gave a worker up for dead: the job runs elsewhere while the first attempt still writes."""
    begun_writing, may_go_on, order = threading.Event(), threading.Event(), iter(("slow", "quick"))

    def write(arguments: dict[str, Any], part: Path) -> None:
        name = next(order)
        part.mkdir()
        (part / "half").write_text(name)
        if name == "slow":
            begun_writing.set()
            assert may_go_on.wait(30)
        (part / "whole").write_text(name)

    worker, job, outcomes = Worker(write, tmp_path, 1), Job("t0", {}), list[JobResult]()
    with attempt_dir(tmp_path) as attempts:
        slow = threading.Thread(target=lambda: outcomes.append(worker.run(job, attempts)))
        slow.start()
        assert begun_writing.wait(30)
        outcomes.append(worker.run(job, attempts))
        may_go_on.set()
        slow.join(30)
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    part = part_path(tmp_path, "t0")
    assert {path.name: path.read_text() for path in part.iterdir()} == {"half": "quick", "whole": "quick"}


def test_two_runs_in_one_folder_take_nothing_of_each_other(tmp_path: Path) -> None:
    with attempt_dir(tmp_path) as one, attempt_dir(tmp_path) as other, attempt(one, "t0"):
        assert begun(other) == take_begun(other) == set()
        assert begun(one) == {"t0"}
