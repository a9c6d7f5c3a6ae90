"""Label encoders and rules of splits as YAML files: those that come with the package by name, others by their path."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from geocore.cli.config import read_file
from geocore.errors import SettingsError

Kind = Literal["encoders", "splits"]


def packaged(kind: Kind) -> list[str]:
    """Names of the definitions that come with the package."""
    return sorted(path.stem for path in _folder(kind).glob("*.yaml"))


def read_definition(kind: Kind, name: str) -> tuple[str, dict[str, Any]]:
    """A definition, by the name of a packaged one or by the path of a file, which ends in .yaml or .yml.

    Returns:
        (name without folder and suffix, what the file holds).

    Raises:
        SettingsError: there is none, or it is not YAML.
    """
    if name in packaged(kind):
        return name, read_file(_folder(kind) / f"{name}.yaml")
    if not name.endswith((".yaml", ".yml")):
        known = ", ".join(packaged(kind))
        raise SettingsError(f"{kind} {name!r}: packaged are {known}; give one of these, or the path of a .yaml file")
    return Path(name).stem, read_file(Path(name))


def _folder(kind: Kind) -> Path:
    return Path(str(files("crops_activesampling"))) / "recipes" / kind
