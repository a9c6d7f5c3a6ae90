"""Label encoders: which codes of crops make which class.

A file lists classes; the place in the list is the number of the class, and class 0 neither trains nor scores:

    labels:
      - {name: unlabelled, id: 0}
      - {name: wheat, id: 110}
      - {name: grassland, id: [910, 911, 912]}

Codes that no class names are of class 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crops_activesampling.definitions import read_definition
from geocore.errors import SettingsError

LARGEST_CODE: Final = 65_535
_KEYS: Final = ("name", "id")
_MOST_CLASSES: Final = 256


@dataclass(frozen=True, slots=True)
class Encoder:
    """Classes and their codes.

    Raises:
        SettingsError: fewer than two classes or more than uint8 holds, a name or a code twice, or an impossible code.
    """

    name: str
    """Of the packaged encoder, or of the file without its suffix."""
    names: tuple[str, ...]
    """Of the classes; the first is that of what is ignored."""
    codes: tuple[tuple[int, ...], ...]
    """Codes of each class."""

    def __post_init__(self) -> None:
        place = f"encoder {self.name}"
        if not 2 <= len(self.names) <= _MOST_CLASSES:
            raise SettingsError(
                f"{place}: {len(self.names)} labels: give the ignored one and 1 to 255 classes after it"
            )
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise SettingsError(f"{place}: labels {', '.join(twice)}: occur more than once; give each its own name")
        owners: dict[int, str] = {}
        for name, codes in zip(self.names, self.codes, strict=True):
            for code in codes:
                if not 0 <= code <= LARGEST_CODE:
                    raise SettingsError(f"{place}: {name}: code {code}: must be 0 to {LARGEST_CODE}; correct it")
                if code in owners:
                    raise SettingsError(
                        f"{place}: {name}: code {code} is that of {owners[code]} already: a code makes one class; "
                        "leave it out of one of them"
                    )
                owners[code] = name

    def encode(self, codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Classes of codes.

        Args:
            codes: any shape, uint32.

        Returns:
            The same shape, uint8; 0 for what no class names.
        """
        table = np.zeros(LARGEST_CODE + 2, np.uint8)
        for index, members in enumerate(self.codes):
            table[list(members)] = index
        # The last place of the table stands for whatever is larger.
        return table[np.minimum(codes, LARGEST_CODE + 1)]


def read_encoder(name: str) -> Encoder:
    """A packaged encoder by its name, or one from a file by its path.

    Raises:
        SettingsError: there is none, it is not YAML, or it breaks a rule; the message says where.
    """
    title, content = read_definition("encoders", name)
    unknown = [str(key) for key in content if key != "labels"]
    if unknown:
        raise SettingsError(f"encoder {title}: unknown key {', '.join(unknown)}: an encoder has labels; remove it")
    labels = content.get("labels")
    if not isinstance(labels, list):
        raise SettingsError(f"encoder {title}: labels is no list: list a name and an id for each class")
    entries = [_entry(label, f"encoder {title}: labels[{index}]") for index, label in enumerate(labels)]
    return Encoder(title, tuple(name for name, _ in entries), tuple(codes for _, codes in entries))


def _entry(label: Any, place: str) -> tuple[str, tuple[int, ...]]:
    """Name and codes of one class."""
    if not isinstance(label, dict) or set(label) != set(_KEYS):
        held = ", ".join(map(str, label)) if isinstance(label, dict) else repr(label)
        raise SettingsError(f"{place} has {held or 'nothing'}: a label has the keys name and id; correct it")
    name, given = label["name"], label["id"]
    if not isinstance(name, str) or not name:
        raise SettingsError(f"{place}.name {name!r}: must be a text; put it in quotes")
    codes: Sequence[Any] = given if isinstance(given, list) else [given]
    wrong = [code for code in codes if not isinstance(code, int) or isinstance(code, bool)]
    if wrong:
        raise SettingsError(f"{place}.id {wrong[0]!r}: must be a whole number or a list of such; correct it")
    return name, tuple(codes)
