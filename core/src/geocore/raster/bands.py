"""Bands of a layer: what each plane of an image holds, selected and ordered by name, never by position."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geocore.errors import DataError


@dataclass(frozen=True, slots=True)
class Band:
    """One plane of a layer; physical value = stored value * scale + offset, in `unit`."""

    name: str
    """Unique within its layer, e.g. "B02" or "VV"."""
    unit: str | None = None
    """Unit of the physical value, e.g. "1" (reflectance) or "dB"; None when unknown."""
    scale: float = 1.0
    offset: float = 0.0
    wavelength_nm: float | None = None
    """Centre wavelength in nanometres, for optical bands."""
    nodata: float | None = None
    """Stored value that marks an invalid pixel; may be NaN or infinite. None: no value does."""


@dataclass(frozen=True, slots=True)
class Bands:
    """The bands of one layer, in the order in which they are stored or fed to a model.

    Raises:
        DataError: two bands share a name, or a vector pair names a band that is not there.
    """

    bands: tuple[Band, ...]
    vector_pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of band names that are the (eastward, northward) components of one vector, e.g. ("u10", "v10"); a flip
    of the image changes the sign of a component."""

    def __post_init__(self) -> None:
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise DataError(
                f"band name {', '.join(map(repr, repeated))} occurs more than once: names must be unique within a "
                "layer; rename the bands"
            )
        for pair in self.vector_pairs:
            self.indices(pair)

    @classmethod
    def named(cls, *names: str, nodata: float | None = None) -> Bands:
        """Bands of which nothing but the name is known, and which stored value marks an invalid pixel."""
        return cls(tuple(Band(name, nodata=nodata) for name in names))

    @property
    def names(self) -> tuple[str, ...]:
        """The names in order."""
        return tuple(band.name for band in self.bands)

    def __len__(self) -> int:
        return len(self.bands)

    def __iter__(self) -> Iterator[Band]:
        return iter(self.bands)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Band:
        return self.bands[self.indices((name,))[0]]

    def indices(self, names: Iterable[str]) -> tuple[int, ...]:
        """Positions of the named bands, counted from 0, in the order asked for.

        Raises:
            DataError: a name does not exist.
        """
        position = {name: index for index, name in enumerate(self.names)}
        wanted = tuple(names)
        missing = [name for name in wanted if name not in position]
        if missing:
            raise DataError(
                f"no band named {', '.join(map(repr, missing))}: the bands are {', '.join(self.names) or '(none)'}; "
                "name bands that exist"
            )
        return tuple(position[name] for name in wanted)

    def select(self, names: Iterable[str]) -> Bands:
        """The named bands in the order asked for; a vector pair stays when both of its components do.

        Raises:
            DataError: a name does not exist or is asked for twice.
        """
        chosen = tuple(self.bands[index] for index in self.indices(names))
        kept = {band.name for band in chosen}
        pairs = tuple(pair for pair in self.vector_pairs if kept.issuperset(pair))
        return Bands(chosen, pairs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON; fields at their default are left out."""
        defaults = {field.name: field.default for field in dataclasses.fields(Band)}
        bands = [
            {
                # As it is read again: 0 and 0.0 are written differently, and a hash would tell them apart.
                key: value if isinstance(value, str) else float(value)
                for key, value in dataclasses.asdict(band).items()
                if value != defaults[key]
            }
            for band in self.bands
        ]
        plain: dict[str, Any] = {"bands": bands}
        if self.vector_pairs:
            plain["vector_pairs"] = [list(pair) for pair in self.vector_pairs]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Bands:
        """The inverse of `to_dict`.

        Raises:
            DataError: a key is unknown or missing, or a value has the wrong type.
        """
        try:
            unknown = set(plain) - {"bands", "vector_pairs"}
            if unknown:
                raise DataError(
                    f"unknown key {', '.join(sorted(map(repr, unknown)))} in bands: the keys are 'bands' and "
                    "'vector_pairs'; remove it"
                )
            bands = tuple(_band_from(entry) for entry in plain["bands"])
            pairs = tuple((str(first), str(second)) for first, second in plain.get("vector_pairs", ()))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"bands cannot be read ({type(error).__name__}: {error}): each needs a name, and optionally unit, "
                "scale, offset, wavelength_nm and nodata"
            ) from error
        return cls(bands, pairs)


def _band_from(entry: Mapping[str, Any]) -> Band:
    values = dict(entry)
    unit, wavelength, nodata = (values.pop(key, None) for key in ("unit", "wavelength_nm", "nodata"))
    band = Band(
        name=str(values.pop("name")),
        unit=None if unit is None else str(unit),
        scale=float(values.pop("scale", 1.0)),
        offset=float(values.pop("offset", 0.0)),
        wavelength_nm=None if wavelength is None else float(wavelength),
        nodata=None if nodata is None else float(nodata),
    )
    if not band.scale or not math.isfinite(band.scale) or not math.isfinite(band.offset):
        raise ValueError(f"scale {band.scale:g} and offset {band.offset:g}: must be finite, and the scale not 0")
    if values:
        raise ValueError(f"unknown key {', '.join(sorted(map(repr, values)))}")
    return band


def taken_for(name: str, found: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """A remark on bands without names: which of them was taken for what.

    Args:
        name: of the file.
        found: names of its bands that are read, or their numbers from 1 where they have none.
        wanted: what they are taken for.

    Returns:
        One line, none where all bands have names or there is but one.
    """
    if len(found) < 2 or not all(band.isdecimal() for band in found):
        return ()
    if list(found) == list(wanted):
        return (f"{name}: bands without names: {', '.join(found)} are taken in this order",)
    pairs = (f"{number} is taken for {band}" for number, band in zip(found, wanted, strict=True))
    return (f"{name}: bands without names: {', '.join(pairs)}",)
