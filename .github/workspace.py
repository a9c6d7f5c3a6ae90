"""The packages of the workspace and how they depend on each other, read from their pyproject.toml files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Package:
    """One member of the workspace."""

    name: str
    """Name of the distribution, such as `snowpack-sam2`."""
    folder: Path
    """Its folder, relative to the root of the workspace."""
    version: str
    """Version in its pyproject.toml."""
    runtime: frozenset[str]
    """Members that it needs to run."""
    tests: frozenset[str]
    """Members that its dependency groups and extras name besides."""

    @property
    def module(self) -> str:
        """Name under which it is imported."""
        return self.name.replace("-", "_")


def _names(requirements: Iterable[object]) -> set[str]:
    # A group may hold {include-group = "..."} tables; the included group is read on its own.
    texts = [requirement for requirement in requirements if isinstance(requirement, str)]
    return {re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", text.strip(), maxsplit=1)[0]).lower() for text in texts}


def packages(root: Path = ROOT) -> dict[str, Package]:
    """Find every member by its name, in the order of the root's `members` globs, then by folder."""
    with open(root / "pyproject.toml", "rb") as file:
        globs = tomllib.load(file)["tool"]["uv"]["workspace"]["members"]
    tables = {}
    for pattern in globs:
        for path in sorted(root.glob(f"{pattern}/pyproject.toml")):
            with open(path, "rb") as file:
                tables[path.parent.relative_to(root)] = tomllib.load(file)
    members = {table["project"]["name"] for table in tables.values()}
    found = {}
    for folder, table in tables.items():
        project = table["project"]
        runtime = _names(project.get("dependencies", []))
        extras = project.get("optional-dependencies", {}).values()
        others = set().union(*map(_names, [*extras, *table.get("dependency-groups", {}).values()]))
        found[project["name"]] = Package(
            name=project["name"],
            folder=folder,
            version=project["version"],
            runtime=frozenset(runtime & members),
            tests=frozenset((others - runtime) & members),
        )
    return found


def closure(name: str, members: dict[str, Package]) -> list[str]:
    """Name the members that have to be installed to test one package: itself, what its tests name, and their needs."""
    needed: list[str] = []
    waiting = [name, *sorted(members[name].tests)]
    while waiting:
        current = waiting.pop(0)
        if current not in needed:
            needed.append(current)
            waiting += sorted(members[current].runtime)
    return needed


def dependents(names: Iterable[str], members: dict[str, Package]) -> set[str]:
    """Name the packages whose tests can change when the given ones change, those included."""
    changed = set(names)
    return {name for name in members if changed & set(closure(name, members))}
