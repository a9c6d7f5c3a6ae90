"""Ice charts: SIGRID-3 codes, the classes they stand for, and polygons turned into class rasters.

Codes: JCOMM Technical Report 23 (SIGRID-3 version 3). Classes and the rule for polygons: the conversion behind the
ready-to-train data of the AutoICE challenge. Rasters made here from the raw form of a scene have to equal those, so the
oddities of that conversion are kept, and named where they occur.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError

MASKED: Final = 255
"""Class of pixels without a class."""
UNFILLED: Final = -9
"""Code of a field that the analyst left empty."""
UNKNOWN: Final = 99
"""Code of a field that the analyst could not tell."""
THRESHOLD: Final = 0.65
"""Share of a polygon's ice that its leading stage, or floe size, needs."""

CLASS_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "SIC": ("0/10", "1/10", "2/10", "3/10", "4/10", "5/10", "6/10", "7/10", "8/10", "9/10", "10/10"),
        "SOD": ("open water", "new ice", "young ice", "thin first-year ice", "thick first-year ice", "old ice"),
        "FLOE": ("open water", "cake ice", "small floe", "medium floe", "big floe", "vast floe", "bergs"),
    }
)
"""Chart -> names of its classes 0, 1, ..."""

_SIC: Final = {0: 0, 1: 0, 2: 0, 55: 0, **{10 * tenth: tenth for tenth in range(1, 10)}, 91: 10, 92: 10}
_SOD: Final = {
    **dict.fromkeys((0, 80), 0),
    **dict.fromkeys((81, 82), 1),
    **dict.fromkeys((83, 84, 85), 2),
    **dict.fromkeys((87, 88, 89), 3),
    **dict.fromkeys((86, 91, 93), 4),
    **dict.fromkeys((95, 96, 97), 5),
    **dict.fromkeys((98, UNKNOWN), MASKED),
}
_FLOE: Final = {
    0: 0,
    2: 1,
    3: 2,
    4: 3,
    5: 4,
    **dict.fromkeys((6, 7), 5),
    **dict.fromkeys((9, 10), 6),
    **dict.fromkeys((1, 8, 21, 22), MASKED),
}
_PARTIALS: Final = "ABC"
_FIELDS: Final = ("poly_id", "CT", *(f"{kind}{part}" for part in _PARTIALS for kind in "CSF"), "POLY_TYPE")
# Beyond this, float32 no longer tells neighbouring ids apart.
_MOST_IDS: Final = 1 << 24
# Pixels looked up at once: what a step leaves behind is still in the processor's cache at the next.
_BLOCK_PX: Final = 1 << 17
# A value that no class has: the id has no record.
_NO_RECORD: Final = 254


@dataclass(frozen=True, slots=True)
class PolygonClasses:
    """What the charts show all over a polygon."""

    sic: int
    """Tenths of ice, 0-10, or 255."""
    sod: int
    """Stage of development, 0-5, or 255."""
    floe: int
    """Floe size, 0-6, or 255."""


def sic_class(code: int | str) -> int:
    """Tenths of ice of a concentration code (CT, CA, CB, CC), 0-10; 255 where unfilled or unknown.

    Raises:
        DataError: SIGRID-3 code without a class here.
    """
    return _shown(_converted(_SIC, "concentration", code))


def sod_class(code: int | str) -> int:
    """Class of a stage of development (SA, SB, SC), 0-5; 255 for glacier ice and where unfilled or unknown.

    Raises:
        DataError: SIGRID-3 code without a class here.
    """
    return _shown(_converted(_SOD, "stage of development", code))


def floe_class(code: int | str) -> int:
    """Class of a form of ice (FA, FB, FC), 0-6; 255 for shuga, pancake, level and fast ice, unfilled and unknown.

    Raises:
        DataError: SIGRID-3 code without a class here.
    """
    return _shown(_converted(_FLOE, "form of ice", code))


def polygon_classes(codes: Sequence[str], threshold: float = THRESHOLD) -> dict[int, PolygonClasses]:
    """Classes of every polygon of a chart.

    A polygon says its total concentration, and those of up to three partials with a stage and a form each. Partials of
    one class are added up, and the leading class is shown if its share of the total reaches the threshold. As in the
    challenge's conversion,

    * of a pair of one class, AB, AC or BC, the second share is added to the first as the record has them; where all
      three are of one class, A gets the share of C alone and not that of B too;
    * of equal shares, the first one leads;
    * without CA, all ice is A's;
    * unfilled and unknown concentrations are reckoned with as the numbers -9 and 99;
    * one partial of fast ice masks the floe size, and so do shuga, level and pancake ice, which share its class 255;
    * polygons of type W, and those without ice, are open water in all charts.

    Args:
        codes: the header of semicolon-separated field names, then a record for each polygon. Of two records of
            one id, the later counts.
        threshold: least share, 0-1, of the total concentration.

    Returns:
        Polygon id -> its classes.

    Raises:
        DataError: a field is missing, a code is no number or has no class.
    """
    if len(codes) == 0:
        raise DataError("polygon_codes is empty: it must begin with the names of its fields; get the scene again")
    names = [name.strip() for name in str(codes[0]).split(";")]
    missing = [name for name in _FIELDS if name not in names]
    if missing:
        raise DataError(
            f"polygon_codes begins with {str(codes[0])!r}, which lacks {', '.join(missing)}: "
            "its first element must name the fields; get the scene again"
        )
    classes = {}
    for record in codes[1:]:
        values = [value.strip() for value in str(record).split(";")]
        if len(values) != len(names):
            raise DataError(
                f"polygon record {str(record)!r} has {len(values)} fields: the header names {len(names)}; "
                "correct the record"
            )
        fields = dict(zip(names, values, strict=True))
        number = _number(fields["poly_id"])
        if number is None or not 0 <= number < _MOST_IDS:
            raise DataError(
                f"polygon record {str(record)!r}: its id must be a whole number from 0 to {_MOST_IDS - 1}; "
                "correct the record"
            )
        try:
            classes[number] = _classes(fields, threshold)
        except DataError as error:
            raise DataError(f"polygon {number}: {error}") from None
    return classes


def polygons_to_charts(
    polygon_ids: npt.NDArray[np.floating[Any]], codes: Sequence[str], threshold: float = THRESHOLD
) -> dict[str, npt.NDArray[np.uint8]]:
    """Class rasters of a chart given as polygons; see `polygon_classes` for the rule.

    Args:
        polygon_ids: shape (row, col), any float: id of the polygon that a pixel lies in, NaN outside all. It is read in
            blocks of rows, so that it may lie on disk.
        codes: header, then a record for each polygon.
        threshold: least share, 0-1, of the total concentration.

    Returns:
        `SIC`, `SOD` and `FLOE`, each of shape (row, col), uint8, 255 where masked.

    Raises:
        DataError: a record cannot be understood, or the raster holds an id without a record.
    """
    classes = polygon_classes(codes, threshold)
    # The last entry, which index -1 finds as well, is for pixels outside all polygons.
    tables = {chart: np.full(max(classes, default=0) + 2, _NO_RECORD, np.uint8) for chart in CLASS_NAMES}
    for chart, table in tables.items():
        table[-1] = MASKED
        for number, shown in classes.items():
            table[number] = getattr(shown, chart.lower())
    height, width = polygon_ids.shape
    charts = {chart: np.empty((height, width), np.uint8) for chart in CLASS_NAMES}
    rows = max(1, _BLOCK_PX // max(width, 1))
    for start in range(0, height, rows):
        block = np.asarray(polygon_ids[start : start + rows])
        index = _table_index(block, len(tables["SIC"]) - 1)
        for chart, table in tables.items():
            # Every index is in range; clipping spares the check and a buffer.
            np.take(table, index, out=charts[chart][start : start + rows], mode="clip")
        strays = charts["SIC"][start : start + rows] == _NO_RECORD
        if strays.any():
            raise _no_record(block[strays][0])
    return charts


def _table_index(ids: npt.NDArray[np.floating[Any]], outside: int) -> npt.NDArray[np.intp]:
    """Where to look up each id, `outside` for NaN; shape (row, col)."""
    filled = np.where(np.isnan(ids), ids.dtype.type(outside), ids)
    # An id above all records must not be taken for NaN.
    if filled.size and not (filled.min() >= 0 and filled.max() <= outside and not (ids == outside).any()):
        raise _no_record(ids[(ids < 0) | (ids >= outside)][0])
    index = filled.astype(np.intp)
    fractions = index != filled
    if fractions.any():
        raise _no_record(ids[fractions][0])
    return index


def _no_record(number: float) -> DataError:
    return DataError(
        f"polygon {number:g} of the chart has no record in polygon_codes: every polygon on the map needs its codes; "
        "get the scene again or leave it out"
    )


def _classes(fields: Mapping[str, str], threshold: float) -> PolygonClasses:
    """Classes of a polygon from its fields by name."""
    total, *shares = (_field(fields, name, _SIC, "concentration") for name in ("CT", "CA", "CB", "CC"))
    if shares[0] == UNFILLED:
        shares[0] = total
    stages = [_field(fields, f"S{part}", _SOD, "stage of development") for part in _PARTIALS]
    forms = [_field(fields, f"F{part}", _FLOE, "form of ice") for part in _PARTIALS]
    sic = 0 if fields["POLY_TYPE"].lower() == "w" else _shown(total)
    if sic == 0:
        return PolygonClasses(0, 0, 0)
    sod = _leading(total, shares, stages, threshold)
    floe = MASKED if MASKED in forms else _leading(total, shares, forms, threshold)
    return PolygonClasses(sic, sod, floe)


def _leading(total: int, shares: Sequence[int], classes: Sequence[int], threshold: float) -> int:
    """Class of the largest share after adding up those of one class, 255 where it is below the threshold.

    Args:
        total: tenths of ice, not 0.
        shares: tenths of A, B and C.
        classes: classes of A, B and C.
        threshold: least part of the total.
    """
    a, b, c = classes
    sums = list(shares)
    # C after B: for three equal classes the share of C replaces that of B, as in the challenge's conversion.
    if a == c != UNFILLED:
        sums[0] = shares[0] + shares[2]
    elif a == b != UNFILLED:
        sums[0] = shares[0] + shares[1]
    if b == c != UNFILLED:
        sums[1] = shares[1] + shares[2]
    most = max(sums)
    # In hundreds, so that 7 of 10 tenths reach a threshold of 0.7 in binary numbers too.
    return _shown(classes[sums.index(most)]) if most / total * 100 >= threshold * 100 else MASKED


def _field(fields: Mapping[str, str], name: str, table: Mapping[int, int], meaning: str) -> int:
    try:
        return _converted(table, meaning, fields[name])
    except DataError as error:
        raise DataError(f"{name} = {error}") from None


def _converted(table: Mapping[int, int], meaning: str, code: int | str) -> int:
    """Class of a code; the codes for unfilled and unknown stay as they are where the table has no class for them."""
    number = _number(code)
    if number is not None and (number in table or number in (UNFILLED, UNKNOWN)):
        return table.get(number, number)
    known = ", ".join(f"{each:02d}" for each in (UNFILLED, *sorted({*table, UNKNOWN})))
    raise DataError(f"{code} is no code for a {meaning}: known are {known}; correct the record")


def _shown(converted: int) -> int:
    """Class as charts show it."""
    return MASKED if converted in (UNFILLED, UNKNOWN) else converted


def _number(code: int | str) -> int | None:
    try:
        return int(code)
    except ValueError:
        return None
