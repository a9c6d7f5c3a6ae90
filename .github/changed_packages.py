"""Print the packages to test after a change, as a JSON list: those touched and all that depend on them.

    python .github/changed_packages.py BASE HEAD     # two commits
    python .github/changed_packages.py --all

A file outside every package (lock, noxfile, workflows, settings of the tools) can change any result and selects all
packages; pages that nothing reads while testing select none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).parent))

from workspace import ROOT, Package, dependents, packages

PAGES = {"README.md", "CONTRIBUTING.md", "LICENSE", ".gitignore", ".github/CODEOWNERS"}
"""Files that no package's tests depend on; the workspace checks read them in every run."""


def packages_to_test(files: Iterable[str], members: dict[str, Package]) -> list[str]:
    """Select packages by changed files.

    Args:
        files: Paths relative to the root, with forward slashes.
        members: The workspace.

    Returns:
        Sorted names.
    """
    touched = set()
    for file in files:
        owner = next(
            (m.name for m in members.values() if PurePosixPath(file).is_relative_to(m.folder.as_posix())), None
        )
        if owner is not None:
            touched.add(owner)
        elif file not in PAGES:
            return sorted(members)
    return sorted(dependents(touched, members))


def changed_files(base: str, head: str, root: Path = ROOT) -> list[str]:
    """List the files that differ between the merge base of two commits and the second one, both names of a rename."""
    command = ["git", "diff", "--name-only", "--no-renames", "-z", f"{base}...{head}"]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return [name for name in output.split("\0") if name]


def main() -> None:
    """Read the command line and print the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every package")
    parser.add_argument("commits", nargs="*", metavar="COMMIT", help="base and head")
    options = parser.parse_args()
    members = packages()
    if options.all:
        chosen = sorted(members)
    elif len(options.commits) == 2:
        chosen = packages_to_test(changed_files(*options.commits), members)
    else:
        parser.error("give two commits or --all")
    print(json.dumps(chosen))


if __name__ == "__main__":
    main()
