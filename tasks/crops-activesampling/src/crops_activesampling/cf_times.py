"""Times as the CF conventions for netCDF write them: a count of days, hours or seconds since a reference date."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geocore.errors import DataError

_UNITS: Final = re.compile(r"(day|hour|minute|second|millisecond|microsecond)s? since (\d{4}-\d{1,2}-\d{1,2})(.*)")
_MICROSECONDS: Final = {
    "day": 86_400_000_000, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000, "millisecond": 1000,
    "microsecond": 1,
}  # fmt: skip
_FARTHEST: Final = 8000 * 366 * 86_400_000_000
_CALENDARS: Final = ("proleptic_gregorian", "standard", "gregorian")


def decode_times(values: NDArray[Any], attributes: Mapping[str, Any], place: str) -> NDArray[np.datetime64]:
    """Times by the CF conventions (section 4.4), whatever their unit and reference date.

    Args:
        values: shape (time,), numbers.
        attributes: of the variable; `units` and, if there, `calendar`.
        place: file and band, for messages.

    Returns:
        Shape (time,), datetime64[us].

    Raises:
        DataError: there is no unit, another calendar, or a value that is no number.
    """
    units, calendar = (
        str(attributes.get(key, default))[:200] for key, default in (("units", ""), ("calendar", "standard"))
    )
    match = _UNITS.fullmatch(units.strip())
    if match is None or calendar not in _CALENDARS:
        raise DataError(f"{place} has times in {units!r} ({calendar}): give units such as 'days since 2019-01-01'")
    year, month, day = (int(part) for part in match[2].split("-"))
    try:
        start = np.datetime64(f"{year:04d}-{month:02d}-{day:02d}{_clock(match[3])}", "us")
    except ValueError as error:
        raise DataError(f"{place} has times in {units!r}: give units such as 'days since 2019-01-01'") from error
    if calendar != "proleptic_gregorian" and start < np.datetime64("1582-10-15"):
        raise DataError(f"{place} counts times in {units!r}: days are ambiguous before 1582-10-15; use a later date")
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise DataError(f"{place} has a time that is not a number; write the file again")
    far = np.abs(values.astype(np.float64)) > _FARTHEST / _MICROSECONDS[match[1]]
    if far.any():
        raise DataError(
            f"{place} has a time {values[far][0]:g} {units.strip()[:60]}: must lie within 8000 years of that date; "
            "write the file again"
        )
    steps = np.rint(values * float(_MICROSECONDS[match[1]])) if values.dtype.kind == "f" else values.astype(np.int64)
    whole = 1 if values.dtype.kind == "f" else _MICROSECONDS[match[1]]
    return np.asarray(start + (steps.astype(np.int64) * whole).astype("timedelta64[us]"))


def _clock(text: str) -> str:
    """Time of day of a reference date as numpy reads it; a zone may only be UTC."""
    text = re.sub(r"(UTC|Z|[+-]00:?00)$", "", text.strip().removeprefix("T").strip()).strip()
    # Some writers leave out leading zeros.
    return f"T{':'.join(part.zfill(2) for part in text.split(':'))}" if text else ""
