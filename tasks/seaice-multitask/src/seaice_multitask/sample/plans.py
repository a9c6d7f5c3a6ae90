"""What each scene of the sample is about: its place, time and ice service, and how much of it is water and land.

Eighteen plans stand in for the training scenes of the challenge: three, four, six and five of them lie in the four
quarters of the year, as 97, 114, 177 and 125 of its 513 scenes do, and the shares of open water average over a quarter
to what the published histograms say (39, 47, 74 and 57 % of what is charted). Two lie where coordinates are awkward:
one across the antimeridian, one two degrees from the pole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

GCPS = 21
"""Ground control points along each side of a scene."""
_EARTH_RADIUS_M = 6_371_000.0
_RAW_PIXEL_M = 40.0

# service, month, latitude, longitude, open water, land, uncharted sea (shares)
_PLANS: tuple[tuple[str, int, float, float, float, float, float], ...] = (
    ("dmi", 1, 65.0, -35.5, 0.35, 0.30, 0.10),
    ("cis", 8, 71.5, -62.0, 0.60, 0.25, 0.10),
    ("dmi", 4, 72.0, -18.0, 0.30, 0.35, 0.10),
    ("dmi", 10, 76.0, -68.0, 0.35, 0.40, 0.08),
    ("cis", 7, 62.0, -72.0, 0.75, 0.30, 0.12),
    ("dmi", 12, 79.5, -12.0, 0.05, 0.30, 0.10),
    ("cis", 5, 66.5, -58.5, 0.65, 0.10, 0.15),
    ("dmi", 9, 70.0, -20.5, 0.85, 0.35, 0.05),
    ("cis", 3, 67.5, -79.0, 0.05, 0.35, 0.10),
    ("dmi", 11, 60.5, -46.0, 0.85, 0.25, 0.20),
    ("cis", 7, 74.5, 179.9, 0.30, 0.15, 0.15),
    ("dmi", 6, 83.0, -35.0, 0.10, 0.25, 0.15),
    ("cis", 10, 71.0, -135.0, 0.65, 0.20, 0.15),
    ("dmi", 9, 67.0, -30.0, 0.95, 0.10, 0.20),
    ("dmi", 2, 60.0, -44.0, 0.75, 0.30, 0.10),
    ("cis", 5, 58.5, -60.5, 0.85, 0.30, 0.12),
    ("cis", 8, 69.0, -75.0, 1.00, 0.40, 0.05),
    ("dmi", 11, 88.0, 20.0, 0.95, 0.00, 0.30),
)
_LETTERS = "0123456789ABCDEF"


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """Where, when and for whom a scene was taken, and the shares that its chart is to have."""

    start: datetime
    """Start of the acquisition, UTC, whole seconds."""
    service: str
    """"cis" or "dmi"."""
    latitude: float
    """Of the centre, degrees."""
    longitude: float
    """Of the centre, degrees, -180 to 180."""
    heading_deg: float
    """Direction in which lines follow each other, clockwise from north, degrees."""
    flip: int
    """Whether the scene was turned upside down when the data set was made; 0 or 1."""
    water: float
    """Share of the charted pixels that are open water."""
    land: float
    """Share of all pixels."""
    uncharted: float
    """Share of all pixels that a chart's border cuts off, about."""
    raw_stem: str
    """Name of the raw file without its suffix."""

    @property
    def quarter(self) -> int:
        """Quarter of the year, 0-3."""
        return (self.start.month - 1) // 3

    @property
    def name(self) -> str:
        """First 19 characters of the ready-to-train file's name."""
        return f"{self.start:%Y%m%dT%H%M%S}_{self.service}"

    @property
    def warmth(self) -> float:
        """Season from 0 in the coldest to 1 in the warmest days of the year (20 January and six months later)."""
        day = self.start.timetuple().tm_yday
        return 0.5 - 0.5 * math.cos(2 * math.pi * (day - 20) / 365.25)


def draw_plan(number: int, rng: np.random.Generator) -> ScenePlan:
    """Complete one of the eighteen plans with a date, an orbit and names.

    Args:
        number: Of the scene; plans come round after eighteen.
        rng: Source of all randomness.
    """
    service, month, latitude, longitude, water, land, uncharted = _PLANS[number % len(_PLANS)]
    first = datetime(int(rng.integers(2018, 2022)), month, 1)
    start = first + timedelta(days=int(rng.integers(0, 28)), seconds=int(rng.integers(0, 86_400)))
    satellite = rng.choice(["S1A", "S1B"])
    take, product = ("".join(rng.choice(list(_LETTERS), count)) for count in (6, 4))
    if service == "dmi":
        chart = f"{start:%Y%m%d%H%M}_{'SouthEast' if latitude < 68 else 'NorthEast'}_RIC"
    else:
        chart = f"SGRDI{'EA' if longitude > -80 else 'WA'}_{start:%Y%m%dT%H%M}Z_pl_a"
    stem = (
        f"{satellite}_EW_GRDM_1SDH_{start:%Y%m%dT%H%M%S}_{start + timedelta(seconds=60):%Y%m%dT%H%M%S}"
        f"_{rng.integers(10_000, 38_000):06d}_{take}_{product}_icechart_{service}_{chart}"
    )
    return ScenePlan(
        start=start,
        service=service,
        latitude=latitude,
        longitude=longitude,
        heading_deg=float(rng.choice([195.0, 345.0]) + rng.normal(0, 4)),
        flip=int(rng.integers(0, 2)),
        water=water,
        land=land,
        uncharted=uncharted,
        raw_stem=stem,
    )


def control_pixels(length: int) -> npt.NDArray[np.int32]:
    """Lines or samples of the ground control points, in 40 m pixels.

    Args:
        length: Pixels of 80 m along the axis.

    Returns:
        Shape (21,), int32, from the first pixel of 40 m to the last.
    """
    return np.rint(np.linspace(0, 2 * length - 1, GCPS)).astype(np.int32)


def control_points(plan: ScenePlan, shape: tuple[int, int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Latitude and longitude of the ground control points, on a sphere.

    Args:
        plan: Of the scene.
        shape: (row, col), pixels of 80 m.

    Returns:
        (latitude, longitude), each of shape (row, col) = (21, 21), float64, degrees; longitudes from -180 to 180.
    """
    along = (control_pixels(shape[0]) - (2 * shape[0] - 1) / 2)[:, None] * _RAW_PIXEL_M
    across = (control_pixels(shape[1]) - (2 * shape[1] - 1) / 2)[None, :] * _RAW_PIXEL_M
    distance = np.hypot(along, across) / _EARTH_RADIUS_M
    bearing = np.deg2rad(plan.heading_deg) + np.arctan2(across, along)
    # Direct problem on the sphere: the point at a distance and a bearing from the centre.
    centre = math.radians(plan.latitude)
    sine = math.sin(centre) * np.cos(distance) + math.cos(centre) * np.sin(distance) * np.cos(bearing)
    east = np.arctan2(np.sin(bearing) * np.sin(distance) * math.cos(centre), np.cos(distance) - math.sin(centre) * sine)
    longitude = (plan.longitude + np.rad2deg(east) + 180) % 360 - 180
    return np.rad2deg(np.arcsin(sine)), longitude
