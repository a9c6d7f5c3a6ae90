"""File names of AI4Arctic scenes: which files are scenes, what they are called and when they were taken.

Ready-to-train: `20180124T194759_dmi_prep.nc`, with `20180124T194759_dmi_prep_reference.nc` beside it or elsewhere where
the scene itself has no charts. Raw: `S1A_EW_GRDM_1SDH_20180124T194759_..._icechart_dmi_....nc`. Either way the scene is
`20180124T194759_dmi`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from geocore.errors import DataError, SceneError
from geocore.storage.documents import DocumentError, read_json

_ID: Final = re.compile(r"\d{8}T\d{6}_[a-z]{3}")
_REFERENCE: Final = "_reference.nc"
_READY: Final = "_prep.nc"


def scene_id(path: Path | str) -> str:
    """Time and ice service of a scene, from either form of its name; any other name without its suffix.

    The challenge forms it so: the first 19 characters of a ready-to-train name, characters 17 to 32 and 77 to 80 of a
    raw one.
    """
    name = Path(path).name
    for candidate in (name[:19], f"{name[17:32]}_{name[77:80]}"):
        if _ID.fullmatch(candidate):
            return candidate
    # A file that is no scene needs a name too, for the message that says so; tasks are called by it.
    return re.sub(r"[^A-Za-z0-9._-]", "_", name.removesuffix(".nc")).lstrip(".") or "_"


def scene_time(path: Path | str) -> datetime:
    """When a scene was taken, UTC without a time zone.

    Raises:
        SceneError: the name does not say.
    """
    name = scene_id(path)
    try:
        if not _ID.fullmatch(name):
            raise ValueError(name)
        return datetime.strptime(name[:15], "%Y%m%dT%H%M%S")
    except ValueError as error:
        raise SceneError(
            f"{path}: its name has no time: scenes are called such as 20180124T194759_dmi_prep.nc; rename it"
        ) from error


def scene_group(path: Path | str) -> str:
    """Day and ice service: neighbouring frames of one pass share both, and must not be torn apart by a split."""
    name = scene_id(path)
    return f"{name[:8]}{name[15:]}" if _ID.fullmatch(name) else name


def reference_of(path: Path, folder: Path | None) -> Path | None:
    """The file with the charts of a ready-to-train scene that has none itself: in a folder, else beside it."""
    name = f"{scene_id(path)}{_READY.removesuffix('.nc')}{_REFERENCE}"
    for place in (folder, path.parent):
        if place is not None and (place / name).exists():
            return place / name
    return None


def find_scenes(inputs: Sequence[Path]) -> list[Path]:
    """Scenes among files and folders, ordered by name: all netCDF files; references do not count.

    Where a scene is there in both forms, the ready-to-train one is taken. Whether a file is a scene shows on opening
    it.

    Raises:
        DataError: a path does not exist, a folder holds no netCDF file, or two files are of one scene and form.
    """
    found: dict[str, Path] = {}
    for path in inputs:
        if not path.exists():
            raise DataError(f"{path}: not found: give scenes (netCDF) or folders of them; check the path")
        # Whoever opens what is neither file nor folder says what it is.
        files = sorted(f for f in path.iterdir() if f.suffix == ".nc" and not f.is_dir()) if path.is_dir() else [path]
        files = [
            file
            for file in files
            if not file.name.endswith(_REFERENCE) and not file.name.startswith((".", "upload_package"))
        ]
        if not files:
            raise DataError(f"{path}: no scene: needs *_prep.nc or *_icechart_*.nc; check the path")
        for file in files:
            other = found.setdefault(scene_id(file), file)
            if os.path.realpath(other) == os.path.realpath(file):
                continue
            if is_ready(file) == is_ready(other):
                raise DataError(f"{file} and {other} are of one scene, and so would be its products: give one of them")
            if is_ready(file):
                found[scene_id(file)] = file
    return [found[name] for name in sorted(found)]


def is_ready(path: Path) -> bool:
    """Whether the name is that of a ready-to-train file."""
    return path.name.endswith(_READY)


def read_list(path: Path) -> list[str]:
    """Scenes of a list such as the challenge's dataset.json and testset.json.

    Args:
        path: JSON list of names: of raw files, of ready-to-train files, or of scenes.

    Raises:
        DataError: the file cannot be read, is no such list, or names something else.
    """
    try:
        names = read_json(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: must be a JSON list of scenes; check the path") from error
    except DocumentError as error:
        raise DataError(f"{path}: {error}: must be a JSON list of scenes; correct it") from error
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: must be a JSON list of at least one scene; correct it")
    for name in names:
        if not isinstance(name, str) or not _ID.fullmatch(scene_id(name)):
            raise DataError(f"{path}: {name!r} is no name of a scene: give those of raw or ready-to-train files")
    return [scene_id(name) for name in names]
