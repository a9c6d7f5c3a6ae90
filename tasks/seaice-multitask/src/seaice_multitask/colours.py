"""Colours and names of the classes of a chart, for maps and pictures.

Concentration and stage of development follow the colour codes of the World Meteorological Organization (JCOMM Technical
Report 24, WMO/TD-No. 1215), as far as its classes are those of the charts. There is no code for floe size.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from geocore.raster.write import Colour
from seaice_multitask.charts import CLASS_NAMES
from seaice_multitask.config import OutputSettings

_WATER: Final = (150, 200, 255)

_COLOURS: Final[Mapping[str, tuple[Colour, ...]]] = MappingProxyType(
    {
        # Ice free; 1-3, 4-6, 7-8 and 9-10 tenths share a colour each.
        "SIC": (
            (0, 100, 255),
            *[(140, 255, 160)] * 3,
            *[(255, 255, 0)] * 3,
            *[(255, 125, 7)] * 2,
            *[(255, 0, 0)] * 2,
        ),
        # Young ice takes the colour of grey ice, thick first-year ice its own though it also holds medium ice.
        "SOD": (_WATER, (240, 210, 250), (135, 60, 215), (155, 210, 0), (0, 120, 0), (180, 100, 50)),
        # Own choice: the larger the floe, the darker; bergs stand out.
        "FLOE": (
            _WATER,
            (255, 247, 188),
            (254, 217, 118),
            (254, 178, 76),
            (240, 116, 40),
            (177, 40, 20),
            (90, 20, 110),
        ),
    }
)
_FIRST: Final = (68, 1, 84)
_LAST: Final = (253, 231, 37)


def class_colours(name: str, output: OutputSettings) -> dict[int, Colour]:
    """Class -> red, green, blue, 0-255; a chart without a code gets a ramp from violet to yellow."""
    known = _COLOURS.get(name, ())
    if len(known) == output.classes:
        return dict(enumerate(known))
    ramp = {}
    for number in range(output.classes):
        share = number / (output.classes - 1)
        red, green, blue = (round(first + share * (last - first)) for first, last in zip(_FIRST, _LAST, strict=True))
        ramp[number] = (red, green, blue)
    return ramp


def class_names(name: str, output: OutputSettings) -> dict[int, str]:
    """Class -> name; the number where the chart has no names."""
    known = CLASS_NAMES.get(name, ())
    return {number: known[number] if len(known) == output.classes else str(number) for number in range(output.classes)}
