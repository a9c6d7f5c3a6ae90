"""Measure geocore beside its peers.

    geocore-bench [NAME ...] [--environments FOLDER] [--data FOLDER] [--out FOLDER] [--quick]
    geocore-bench golden --check [TASK ...]          (see geocore_bench.golden)
    geocore-bench gallery [TASK ...]                 (see geocore_bench.gallery)

Builds the peers' environments where they are missing, makes the inputs, runs every case in turns, and writes
`results.md` and `results.png`; each run is a line of `records.jsonl` in the folder of the data. The folder of the
environments holds one called `geocore`, made before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from geocore_bench import environments, gallery, golden
from geocore_bench.environments import OURS, PEERS, Environment, interpreter
from geocore_bench.goals import GOALS, judge
from geocore_bench.harness import BENCHMARKS, Case, Contender, load
from geocore_bench.plots import plot
from geocore_bench.results import machine, page
from geocore_bench.rounds import Record, spawn, take_turns
from geocore_bench.summary import Table, summarise

_HOME = Path.home() / ".cache" / "geocore-bench"


def main() -> None:
    """Entry point of `geocore-bench`."""
    if sys.argv[1:2] in (["golden"], ["gallery"]):
        (golden if sys.argv[1] == "golden" else gallery).main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="geocore-bench", description="Measure geocore beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; none: all of them")
    parser.add_argument("--environments", type=Path, default=_HOME / "environments", help="folder of the environments")
    parser.add_argument("--data", type=Path, default=_HOME / "data", help="folder of the inputs")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="small inputs and one run each, to see that all works")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(BENCHMARKS)}")
    if not interpreter(given.environments, OURS).exists():
        parser.error(f"no environment {given.environments / OURS}: install geocore and the task packages there")
    measure(given.names or BENCHMARKS, given.environments.resolve(), given.data.resolve(), given.out, quick=given.quick)


def measure(names: Iterable[str], root: Path, data: Path, out: Path, *, quick: bool) -> None:
    """Build, run and report.

    Args:
        names: of the benchmarks.
        root: folder of the environments.
        data: folder of the inputs.
        out: where the results go.
        quick: small inputs, one run of each contender.
    """
    start = time.monotonic()
    chosen = {name: load(name).cases(quick) for name in names}
    used = {contender.environment for cases in chosen.values() for case in cases for contender in case.contenders}
    for peer in PEERS:
        if peer.name in used:
            _build(root, peer)
    code = environments.code_folder(root)
    data.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    mode = ["--quick"] if quick else []
    tables: list[Table] = []
    with (data / "records.jsonl").open("w", encoding="utf-8") as log:
        for name, cases in chosen.items():
            made = spawn(interpreter(root, OURS), code, ["prepare", name, str(data), *mode], threads=2)
            if "failed" in made:
                raise SystemExit(f"{name}: its inputs cannot be made: {made['failed']}")
            for case in cases:
                records = _run(name, case, root, code, data, mode)
                for record in records:
                    log.write(json.dumps({"benchmark": name, **record}) + "\n")
                log.flush()
                tables.append(summarise(name, case, records))
    verdicts = [judge(goal, tables) for goal in GOALS if goal.benchmark in chosen]
    text = page(
        verdicts,
        tables,
        environments.versions(root, code, sorted(used)),
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        minutes=(time.monotonic() - start) / 60,
        quick=quick,
    )
    (out / "results.md").write_text(text, encoding="utf-8")
    plot(verdicts, out / "results.png")
    print(f"{out / 'results.md'}: {sum(verdict.met is True for verdict in verdicts)} of {len(verdicts)} goals reached")


def _build(root: Path, peer: Environment) -> None:
    try:
        environments.build(root, peer)
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is not installed: environments are built with it; install uv") from error
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"{peer.name}: its environment cannot be built, as uv says above; the same command tries again"
        ) from error


def _run(benchmark: str, case: Case, root: Path, code: Path, data: Path, mode: list[str]) -> list[Record]:
    """All runs of a case; a line on the terminal for each."""

    def run(contender: Contender) -> Record:
        words = ["run", benchmark, case.name, contender.name, str(data), *mode]
        told = spawn(interpreter(root, contender.environment), code, words, threads=case.threads)
        return told or {"failed": "ended without a word"}

    records = []
    for record in take_turns(case, run, repetitions=1 if mode else None):
        outcome = record.get("failed") or record.get("skipped") or f"{record['value']:.4g} {case.unit}"
        print(f"{benchmark}, {case.name}, round {record['round'] + 1}, {record['contender']}: {outcome}", flush=True)
        records.append(record)
    return records


if __name__ == "__main__":
    main()
