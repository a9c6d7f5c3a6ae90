"""The text form of dataset.yaml: its samples and labels, the rules its entries keep, reading and writing it.

Its first line is the hash of the others, so that damage, and a file that ends early, are told from what was written.
Whoever edits the file takes that line out.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import pydantic
import yaml

from geocore.errors import DataError
from geocore.raster.grid import Window
from geocore.raster.products import scene_hash
from geocore.storage.documents import MANY_BYTES, DocumentError, parse_yaml, read_text

FILE_NAME: Final = "dataset.yaml"
Scalar = str | bool | int | float

_SEAL: Final = "# SHA-256 of all lines below: "
_HEADER: Final = "# Paths are relative to the folder of this file.\n"
# The C writer is ten times faster where libyaml is built in; both are safe.
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _check_relative(path: str) -> str:
    if not path or PurePosixPath(path).is_absolute():
        raise ValueError("must be a path relative to the folder of the data set")
    return path


_RelativePath = Annotated[str, pydantic.AfterValidator(_check_relative)]
_IsoDate = Annotated[
    str,
    # YAML reads an unquoted date as a date.
    pydantic.BeforeValidator(lambda value: value.isoformat() if isinstance(value, datetime.date) else value),
]


@dataclass(frozen=True, slots=True)
class Sample:
    """One scene, chip or time series with its labels."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = pydantic.ConfigDict(extra="forbid")

    id: str
    """Unique within the data set."""
    group: str
    """What must not be torn apart by a split: event, scene, season, block."""
    split: str
    """"train", "val", "test" or another name; empty when not assigned."""
    inputs: dict[str, _RelativePath]
    """Layer name to file."""
    labels: dict[str, _RelativePath] = field(default_factory=dict)
    """Label name to file."""
    attributes: dict[str, Scalar] = field(default_factory=dict)
    """Whatever else a task needs to know about the sample."""
    hashes: dict[_RelativePath, str] = field(default_factory=dict)
    """File to SHA-256 of its content and of what it names, as `raster.products.scene_hash`, in hexadecimal digits."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file of the sample once, inputs first."""
        return tuple(dict.fromkeys([*self.inputs.values(), *self.labels.values()]))

    @property
    def window(self) -> Window | None:
        """The part of its inputs that the sample is, pixels, where the attributes row, col, height and width say so."""
        values = [self.attributes.get(name) for name in ("row", "col", "height", "width")]
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            return None
        row, col, height, width = (int(value) for value in values if value is not None)
        return Window(row, col, height, width) if height > 0 and width > 0 else None

    def hashed(self, root: Path) -> Sample:
        """This sample with the hashes of its files, and of those that they name, as they are now.

        Raises:
            DataError: a file cannot be read.
        """
        try:
            return dataclasses.replace(self, hashes={path: scene_hash(root / path) for path in self.paths})
        except OSError as error:
            raise DataError(f"sample {self.id!r}: {error.filename}: {error.strerror}; every file must exist") from error


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """What the values of a label mean."""

    name: str
    classes: dict[int, str] = field(default_factory=dict)
    """Value to class name; empty for labels that are not classes."""
    ignore: int | None = None
    """Value of pixels that neither train nor score."""


class LayerEntry(pydantic.BaseModel):
    """A layer as the file describes it; see `geocore.raster.scene.Layer`."""

    model_config = pydantic.ConfigDict(extra="forbid")
    dtype: str
    ratio: int = pydantic.Field(default=1, ge=1)
    times: list[_IsoDate] = []
    pixel_m: tuple[float, float] | None = None
    bands: list[dict[str, Any]] = pydantic.Field(min_length=1)
    vector_pairs: list[list[str]] = []


class LabelEntry(pydantic.BaseModel):
    """A label as the file describes it; see `LabelSpec`."""

    model_config = pydantic.ConfigDict(extra="forbid")
    classes: dict[int, str] = {}
    ignore: int | None = None


class Document(pydantic.BaseModel):
    """The whole file."""

    model_config = pydantic.ConfigDict(extra="forbid")
    format: Literal[1]
    task: str
    protocol: dict[str, Scalar | None] = {}
    prepared_with: dict[str, Any] = {}
    notes: list[str] = []
    layers: dict[str, LayerEntry]
    labels: dict[str, LabelEntry] = {}
    statistics: dict[str, list[dict[str, Any]]] | None = None
    samples: list[Sample]


def read_document(file: Path) -> Document:
    """Read and check the file.

    Raises:
        DataError: it is missing, is not what was written, is not YAML or breaks a rule.
    """
    try:
        text = read_text(file, most_bytes=MANY_BYTES)
        _check_seal(file, text)
        content = parse_yaml(text)
    except FileNotFoundError as error:
        raise DataError(f"{file}: not found: a data set has a {FILE_NAME}; prepare the data first") from error
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}: must be a readable file; check the path") from error
    except DocumentError as error:
        rule = "must be YAML; correct it" if error.syntax else "correct it"
        raise DataError(f"{file}: {error}: {rule} or prepare the data again") from error
    if not isinstance(content, dict):
        held = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise DataError(f"{file}: {held}: must be a mapping; prepare the data again")
    try:
        return Document.model_validate(content)
    except pydantic.ValidationError as error:
        first, *others = error.errors(include_url=False)
        place = ".".join(str(part) for part in first["loc"])
        value = "" if first["type"] == "missing" else f" = {_short(first['input'])}"
        more = f" (and {len(others)} more)" if others else ""
        rule = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{file}: {place}{value}: {rule}{more}; correct it or prepare the data again") from error


def document_text(content: Mapping[str, Any]) -> str:
    """YAML of plain values under the keys of `Document`, in its order and without what is empty, below its hash."""
    keys = [key for key in Document.model_fields if content.get(key) not in (None, [], {}) or key == "samples"]
    body: str = yaml.dump(
        {key: content[key] for key in keys}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )
    text = _HEADER + body
    return f"{_SEAL}{_hash(text)}\n{text}"


def sample_entry(sample: Sample) -> dict[str, Any]:
    """Plain values of a sample, without empty ones."""
    entry = {item.name: getattr(sample, item.name) for item in dataclasses.fields(sample)}
    return {
        name: plain(value) if isinstance(value, dict) else value for name, value in entry.items() if value != {}
    } | {"inputs": dict(sample.inputs)}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as Python's own: numpy's are written neither to YAML nor to JSON."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}


def _check_seal(file: Path, text: str) -> None:
    first, _, rest = text.partition("\n")
    if first.startswith(_SEAL) and first.removeprefix(_SEAL).strip() != _hash(rest):
        raise DataError(
            f"{file}: is not what was written, by damage or by hand: prepare the data again, or take its first line "
            "out if you changed it"
        )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
