"""Parcels: which crop most pixels of each are mapped as, and how probable that crop is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from crops_activesampling.scores import Classes, parcel_majorities
from geocore.storage.files import atomic_path

if TYPE_CHECKING:
    from crops_activesampling.mapping import MappedPatch


@dataclass(frozen=True, slots=True)
class ParcelTable:
    """A row for each parcel of a patch, in the order of their numbers."""

    numbers: npt.NDArray[np.uint32]
    """Shape (parcel,), uint32."""
    classes: Classes
    """Shape (parcel,), uint8: the crop that most of its pixels are mapped as, the lower one of two as frequent, 1 to n;
    0 where none is seen."""
    confidence: npt.NDArray[np.float64]
    """Shape (parcel,), float64: mean probability of that crop over the pixels that are seen, 0-1; NaN where none is."""
    pixels: npt.NDArray[np.int64]
    """Shape (parcel,), int64: pixels of the parcel in this patch."""
    mapped: npt.NDArray[np.int64]
    """Shape (parcel,), int64: those of them that are seen."""


def parcel_table(found: MappedPatch, parcels: npt.NDArray[np.uint32]) -> ParcelTable:
    """Majorities and confidence of parcels.

    Args:
        found: the map of the patch.
        parcels: shape (row, col), uint32, number of the parcel, 0 outside.
    """
    inside = parcels != 0
    numbers, places = np.unique(parcels[inside], return_inverse=True)
    classes_of, shares = found.classes[inside], found.shares[:, inside]
    majority = parcel_majorities(classes_of, places, len(numbers), len(shares))
    seen = classes_of != 0
    # Of the crop that the parcel is said to have, also in those of its pixels that are mapped as another one.
    channel = np.maximum(majority[places].astype(np.intp), 1) - 1
    probability = np.take_along_axis(shares, channel[np.newaxis], axis=0)[0]
    mapped = np.bincount(places[seen], minlength=len(numbers))
    sums = np.bincount(places[seen], weights=probability[seen], minlength=len(numbers))
    return ParcelTable(
        numbers,
        majority,
        np.divide(sums, mapped, out=np.full(len(numbers), np.nan), where=mapped > 0),
        np.bincount(places, minlength=len(numbers)),
        mapped,
    )


def write_table(csv: Path, parquet: Path, table: ParcelTable, class_names: Mapping[int, str]) -> None:
    """Write a table as CSV and as Parquet, each whole or not at all.

    Columns: `parcel`; `class`, its number, 0 where nothing is seen; `crop`, its name, empty there; `confidence`, 0-1,
    empty there; `pixels`; `mapped_pixels`.

    Args:
        csv: file to write.
        parquet: file to write.
        table: what to write.
        class_names: number and name of each crop.

    Raises:
        StorageError: the disk is full or closed.
    """
    import pandas

    frame = pandas.DataFrame(
        {
            "parcel": table.numbers,
            "class": table.classes,
            "crop": pandas.Series([class_names.get(int(number), "") for number in table.classes], dtype="str"),
            "confidence": table.confidence,
            "pixels": table.pixels,
            "mapped_pixels": table.mapped,
        }
    )
    with atomic_path(csv) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n")
    with atomic_path(parquet) as temporary:
        frame.to_parquet(temporary, index=False)
