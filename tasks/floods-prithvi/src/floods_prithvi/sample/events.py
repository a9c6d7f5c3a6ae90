"""The floods of the sample: real events by name, place and date of the image, with an invented look each.

Bolivia is held out: it is greener and darker than the others, its water is clearer, and half of it is overgrown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from floods_prithvi.sample.flood import Look


@dataclass(frozen=True, slots=True)
class Event:
    """One flood."""

    name: str
    """As in the names of files."""
    location: str
    """As in the metadata."""
    country: str
    """ISO 3166 code of two letters."""
    date: str
    """Of the image, YYYY/MM/DD."""
    latitude: float
    longitude: float
    look: Look


HELD_OUT: Final = "Bolivia"
EVENTS: Final = (
    Event(
        name="Ghana",
        location="Ghana",
        country="GH",
        date="2018/09/19",
        latitude=9.40,
        longitude=-1.30,
        look=Look(
            {"crop": 0.25, "meadow": 0.33, "bare": 0.15, "stubble": 0.10, "dark soil": 0.12, "town": 0.05},
            silt=1.1,
            plants=0.30,
            haze=0.03,
        ),
    ),
    Event(
        name="Mekong",
        location="Cambodia",
        country="KH",
        date="2018/08/04",
        latitude=12.10,
        longitude=105.50,
        look=Look(
            {"crop": 0.47, "meadow": 0.27, "bare": 0.08, "stubble": 0.05, "dark soil": 0.08, "town": 0.05},
            silt=1.0,
            plants=0.40,
            clouds=0.7,
        ),
    ),
    Event(
        name="Spain",
        location="Spain",
        country="ES",
        date="2019/09/18",
        latitude=38.10,
        longitude=-0.80,
        look=Look(
            {"crop": 0.22, "meadow": 0.16, "bare": 0.25, "stubble": 0.21, "dark soil": 0.08, "town": 0.08},
            silt=1.2,
            plants=0.15,
            clouds=0.4,
        ),
    ),
    Event(
        name="Sri-Lanka",
        location="Sri-Lanka",
        country="LK",
        date="2017/05/28",
        latitude=6.70,
        longitude=80.30,
        look=Look(
            {"crop": 0.47, "meadow": 0.31, "bare": 0.05, "stubble": 0.05, "dark soil": 0.07, "town": 0.05},
            silt=0.8,
            plants=0.35,
            haze=0.03,
            clouds=0.8,
        ),
    ),
    Event(
        name="USA",
        location="USA",
        country="US",
        date="2019/05/22",
        latitude=36.20,
        longitude=-95.60,
        look=Look(
            {"crop": 0.32, "meadow": 0.16, "bare": 0.22, "stubble": 0.15, "dark soil": 0.10, "town": 0.05},
            silt=0.9,
            plants=0.20,
            clouds=0.4,
        ),
    ),
    Event(
        name=HELD_OUT,
        location="Bolivia",
        country="BO",
        date="2018/02/15",
        latitude=-14.20,
        longitude=-65.40,
        look=Look(
            {"crop": 0.25, "meadow": 0.55, "bare": 0.06, "dark soil": 0.14},
            silt=0.5,
            plants=0.45,
            tone=0.88,
            haze=0.02,
        ),
    ),
)
