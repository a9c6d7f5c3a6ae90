"""Try what geocore and its tasks survive.

    geocore-trials faults [TASK ...] [--minutes N] [--seed N] [--out FOLDER] [--home FOLDER]
    geocore-trials fuzz [FORMAT ...] [--minutes N] [--seed N] [--out FOLDER] [--home FOLDER]

Writes `faults.md` or `fuzz.md`, and a line for each case into `faults.jsonl` or `fuzz.jsonl`. The same seed makes the
same trials. Exit code 1: something fell.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from geocore_trials.cases import Session
from geocore_trials.tables import page


def main() -> None:
    """Entry point of `geocore-trials`."""
    parser = argparse.ArgumentParser(prog="geocore-trials", description="Try what geocore and its tasks survive.")
    parser.add_argument("session", choices=("faults", "fuzz"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="of tasks or formats; none: all of them")
    parser.add_argument("--minutes", type=float, default=20.0, help="time after which no further trial is begun")
    parser.add_argument("--seed", type=int, default=None, help="of everything drawn; none: one is drawn, and told")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the table and the journal")
    parser.add_argument("--home", type=Path, default=None, help="folder to work in; none: a temporary one")
    given = parser.parse_args()
    if given.session == "faults" and os.geteuid() != 0 and "GEOCORE_TRIALS_OWN" not in os.environ:
        _enter_own_namespace()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    journal = given.out.resolve() / f"{given.session}.jsonl"
    journal.write_text("")
    session = Session(journal, given.minutes)
    with tempfile.TemporaryDirectory(prefix="geocore-trials-") as temporary:
        home = (given.home or Path(temporary)).resolve()
        os.environ["GEOCORE_CACHE"] = str(home / "cache")
        if given.session == "faults":
            from geocore_trials.faults import run_faults

            run_faults(session, given.names, home, seed)
        else:
            from geocore_trials.fuzz import run_fuzz

            run_fuzz(session, given.names, home, seed)
    words = " ".join([given.session, *given.names, "--minutes", f"{given.minutes:g}", "--seed", str(seed)])
    table = given.out / f"{given.session}.md"
    table.write_text(page(given.session, words, session, date=time.strftime("%Y-%m-%d")), encoding="utf-8")
    fallen = sum(not case.good for case in session.cases)
    print(f"{table}: {len(session.cases)} trials, {fallen} of them fell; seed {seed}")
    sys.exit(1 if fallen else 0)


def _enter_own_namespace() -> None:
    """Begin again as root of a user namespace, where small file systems may be mounted; go on without where not."""
    import subprocess

    os.environ["GEOCORE_TRIALS_OWN"] = "1"
    try:
        if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode == 0:
            os.execvp("unshare", ["unshare", "-rm", sys.executable, "-m", "geocore_trials", *sys.argv[1:]])
    except FileNotFoundError:
        pass


if __name__ == "__main__":
    main()
