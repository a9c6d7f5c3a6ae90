"""Find images and their labels by the names of their files."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from geocore.errors import DataError
from geocore.raster.formats import unread_among

RASTER_EXTENSIONS: Final = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
"""Files that `geocore.raster.geotiff.open_raster` reads, in lower case."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its label."""

    stem: str
    image: Path
    label: Path


def pair_by_suffix(
    folder: Path,
    suffix: str = "_mask",
    *,
    image_suffix: str = "",
    label_folder: Path | None = None,
) -> list[Pair]:
    """Pair images and labels by name: `a.jpg` with `a_mask.png`, and with `image_suffix="_nir"` also `a_nir.tif`.

    Args:
        folder: holds the images, and the labels too unless `label_folder` is given. Hidden files do not count.
        suffix: what the name of a label has behind that of its image.
        image_suffix: what the name of an image may have behind the name that it shares with its label.
        label_folder: holds the labels, and nothing else.

    Returns:
        Pairs sorted by name.

    Raises:
        DataError: a file has no partner or several, naming all such files, or if there is no file.
    """
    images: dict[str, list[Path]] = defaultdict(list)
    labels: dict[str, list[Path]] = defaultdict(list)
    folders = [folder] if label_folder is None else [folder, label_folder]
    for path in _files_of(folder):
        if path.stem.endswith(suffix):
            labels[path.stem.removesuffix(suffix)].append(path)
        else:
            images[path.stem.removesuffix(image_suffix)].append(path)
    for path in _files_of(label_folder) if label_folder is not None else ():
        labels[path.stem.removesuffix(suffix)].append(path)
    stems = sorted(images.keys() | labels.keys())
    if not stems:
        raise DataError(
            f"{folder}: no {', '.join(RASTER_EXTENSIONS)} files: images and labels are needed; check the path"
            f"{unread_among(_listed(*folders))}"
        )
    problems = [
        f"{path.name} ({'no partner' if not images[stem] or not labels[stem] else 'several of this name'})"
        for stem in stems
        for path in images[stem] + labels[stem]
        if len(images[stem]) != 1 or len(labels[stem]) != 1
    ]
    if problems:
        lone = {stem for stem in stems if not images[stem]}
        raise DataError(
            f"{folder}: {len(problems)} unmatched files: {', '.join(problems)}: every image needs exactly one label"
            f" NAME{suffix}; add, rename or remove files"
            f"{unread_among(path for path in _listed(*folders) if path.stem.removesuffix(image_suffix) in lone)}"
        )
    return [Pair(stem, images[stem][0], labels[stem][0]) for stem in stems]


def _files_of(folder: Path) -> list[Path]:
    # What is no file at all is refused by whoever reads it, and not left out in silence.
    return [path for path in _listed(folder) if path.suffix.lower() in RASTER_EXTENSIONS and not path.is_dir()]


def _listed(*folders: Path) -> list[Path]:
    """What lies in folders, without hidden files: previews and resource forks that file managers leave behind."""
    found: list[Path] = []
    for folder in folders:
        try:
            found += sorted(folder.iterdir())
        except OSError as error:
            raise DataError(f"{folder}: {error.strerror}: must be a readable folder; check the path") from error
    return [path for path in found if not path.name.startswith(".")]
