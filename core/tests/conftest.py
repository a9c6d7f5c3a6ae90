"""What every test needs."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from geocore.storage import files


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """A shell that starts a command in the background makes it, and all that it starts, deaf to SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def killed_writer() -> str:
    """How a process that is no more signs what it leaves unfinished: `.part-<signature>.tif`."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return f"{files.signature().partition('.')[0]}.{ended.pid}-{'0' * 12}"


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address on this machine that has nothing, and the requests that reach it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", asked
        served.shutdown()
        thread.join()


Start = Callable[..., tuple[str, list[subprocess.Popen[bytes]]]]


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[Start]:
    """Starts a Dask scheduler and workers on this machine; they end with the test.

    Called with a folder of modules that they can import, the numbers of workers and of their threads, and variables of
    the environment. Gives the scheduler's address and the processes: the scheduler, then its workers.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def launch(
        code: Path, *, workers: int, threads: int = 1, **variables: str
    ) -> tuple[str, list[subprocess.Popen[bytes]]]:
        file = tmp_path / "scheduler.json"
        paths = os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables}

        def run(module: str, *words: str) -> None:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            line = [sys.executable, "-m", f"distributed.cli.{module}", *words, "--no-dashboard"]
            processes.append(subprocess.Popen(line, env=environment, cwd=tmp_path, **quiet))

        run("dask_scheduler", "--host", "tcp://127.0.0.1:0", "--scheduler-file", str(file))
        words = ["--nthreads", str(threads), "--no-nanny", "--memory-limit", "0"]
        words += ["--local-directory", str(tmp_path / "dask")]
        for _ in range(workers):
            run("dask_worker", "--scheduler-file", str(file), *words)
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline, "the scheduler does not start"
            time.sleep(0.02)
        return json.loads(file.read_text())["address"], processes

    yield launch
    for process in processes:
        process.kill()
        process.wait()
