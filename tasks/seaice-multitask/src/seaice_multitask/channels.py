"""Channels: the variables of AI4Arctic scenes and what is made of them, by name.

Means and standard deviations are those of the challenge's training scenes, as published with it: ready-to-train files
hold z-scores by them, and raw files are brought to the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from geocore.errors import SettingsError
from geocore.raster.bands import Band, Bands

RADAR: Final = ("nersc_sar_primary", "nersc_sar_secondary")
"""Backscatter in HH and HV."""
WINDS: Final = ("u10m_rotated", "v10m_rotated")
"""Components along the image's columns and lines."""


@dataclass(frozen=True, slots=True)
class Standard:
    """How a channel's z-score was made."""

    mean: float
    std: float
    unit: str
    """Of mean and std."""


SAR_STANDARD: Final[Mapping[str, Standard]] = {
    "nersc_sar_primary": Standard(-14.5082551552228, 5.6597459193818676, "dB"),
    "nersc_sar_secondary": Standard(-24.701205147144236, 4.746759305258515, "dB"),
    "sar_incidenceangle": Standard(33.99801788456536, 8.322267212079046, "degree"),
    "distance_map": Standard(23.627669500714102, 14.99018630794473, "zone"),
}
"""Variables of the radar's grid."""

COARSE_STANDARD: Final[Mapping[str, Standard]] = {
    "btemp_6_9h": Standard(148.8469796145295, 61.64846862537627, "K"),
    "btemp_6_9v": Standard(203.51944545494723, 38.66643206594044, "K"),
    "btemp_7_3h": Standard(149.89896504342093, 61.67544463178433, "K"),
    "btemp_7_3v": Standard(204.20534015176978, 38.66622047733582, "K"),
    "btemp_10_7h": Standard(153.89169240998876, 60.875249835766844, "K"),
    "btemp_10_7v": Standard(208.90408657387925, 36.24495931413019, "K"),
    "btemp_18_7h": Standard(165.6802621430742, 52.617873035841676, "K"),
    "btemp_18_7v": Standard(218.5868342822609, 28.060389755926906, "K"),
    "btemp_23_8h": Standard(182.20893715257156, 42.88716195392868, "K"),
    "btemp_23_8v": Standard(226.39646658494573, 22.117582324875166, "K"),
    "btemp_36_5h": Standard(185.19472368457747, 38.6444384529263, "K"),
    "btemp_36_5v": Standard(228.20590185866286, 17.652645265307164, "K"),
    "btemp_89_0h": Standard(212.53745842027274, 22.584971395547413, "K"),
    "btemp_89_0v": Standard(241.25747874607808, 16.31096214404262, "K"),
    "u10m_rotated": Standard(0.6747986162545088, 4.749646758314658, "m/s"),
    "v10m_rotated": Standard(0.6075565949388854, 5.196104947581429, "m/s"),
    "t2m": Standard(268.6265490976146, 9.469170769562306, "K"),
    "skt": Standard(268.91015184833424, 10.305256438427369, "K"),
    "tcwv": Standard(7.747741728107202, 5.268575011079001, "kg/m2"),
    "tclw": Standard(0.041245511364735726, 0.07112806794202754, "kg/m2"),
}
"""Variables of the 2 km grid: AMSR2 brightness temperatures and ERA5 weather."""

PLACE_STANDARD: Final[Mapping[str, Standard]] = {
    "latitude": Standard(69.1253, 7.0318, "degree"),
    "longitude": Standard(-56.3897, 31.3294, "degree"),
}
"""Channels made from the control points."""

MONTH: Final = "month"
"""Channel made from the scene's time: -1 in January to 1 in December."""

_STANDARD: Final = {**SAR_STANDARD, **COARSE_STANDARD, **PLACE_STANDARD}


def bands_of(names: Sequence[str]) -> Bands:
    """Bands of the named channels, in the order asked for; scale and offset lead back to the physical value.

    Raises:
        SettingsError: a name is unknown or occurs twice.
    """
    unknown = [name for name in names if name not in _STANDARD and name != MONTH]
    if unknown:
        raise SettingsError(
            f"channel {unknown[0]!r} is unknown: known are {', '.join([*_STANDARD, MONTH])}; correct it"
        )
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise SettingsError(f"channel {repeated[0]!r} is asked for twice: give each one once")
    pairs = (WINDS,) if set(WINDS) <= set(names) else ()
    return Bands(tuple(_band(name) for name in names), pairs)


def _band(name: str) -> Band:
    if name == MONTH:
        return Band(name)
    standard = _STANDARD[name]
    return Band(name, standard.unit, scale=standard.std, offset=standard.mean)
