"""SIGRID-3 codes, and polygons turned into the charts of the challenge."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from geocore.errors import DataError
from seaice_multitask.charts import (
    CLASS_NAMES,
    PolygonClasses,
    floe_class,
    polygon_classes,
    polygons_to_charts,
    sic_class,
    sod_class,
)

HEADER = "poly_id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE"
NONE = "-9;-9;-9"


def _record(total: str, a: str = NONE, b: str = NONE, c: str = NONE, kind: str = "I", number: int = 1) -> str:
    return f"{number};{total};{a};{b};{c};-9;-9;06-9;{kind}"


def _shown(*fields: str, threshold: float = 0.65, **named: str) -> tuple[int, int, int]:
    shown = polygon_classes([HEADER, _record(*fields, **named)], threshold)[1]
    return shown.sic, shown.sod, shown.floe


@pytest.mark.parametrize(
    "convert,classes",
    [
        (
            sic_class,
            {
                0: "00 01 02 55",
                **{tenth: f"{10 * tenth}" for tenth in range(1, 10)},
                10: "91 92",
                255: "-9 99",
            },
        ),
        (
            sod_class,
            {0: "00 80", 1: "81 82", 2: "83 84 85", 3: "87 88 89", 4: "86 91 93", 5: "95 96 97", 255: "98 99 -9"},
        ),
        (
            floe_class,
            {0: "00", 1: "02", 2: "03", 3: "04", 4: "05", 5: "06 07", 6: "09 10", 255: "01 08 21 22 99 -9"},
        ),
    ],
)
def test_every_code_has_its_class_and_no_other_code_has_one(convert, classes):
    expected = {int(code): number for number, codes in classes.items() for code in codes.split()}
    for code in range(-20, 130):
        if code in expected:
            assert convert(code) == convert(f"{code:02d}") == convert(f" {code} ") == expected[code]
        else:
            with pytest.raises(DataError, match=rf"^{code} is no code for a .*: known are -9, 00, .*99; correct the"):
                convert(code)


def test_classes_have_names():
    assert {chart: len(names) for chart, names in CLASS_NAMES.items()} == {"SIC": 11, "SOD": 6, "FLOE": 7}


# Each expectation is worked out by hand from the record: shares in tenths, classes of A, B and C in order.
@pytest.mark.parametrize(
    "fields,expected",
    [
        # 9 of 10 tenths are old ice in vast floes: the record that the description of the raw data shows.
        (("91", "90;95;06", "10;93;06"), (10, 5, 5)),
        # Without CA all of the 6 tenths are A's.
        (("60", "-9;84;04"), (6, 2, 3)),
        # Without CA and without a stage or form there is nothing to show.
        (("60", NONE), (6, 255, 255)),
        # 5 + 5 tenths of grey and grey-white ice are young ice together; big (5) and vast (5) do not add up.
        (("91", "50;84;05", "50;85;06"), (10, 2, 255)),
        # 4 (A) + 3 (C) = 7 of 10 are young ice, B is old; of three equal forms A gets C's 3 as well, which is enough.
        (("91", "40;84;03", "30;95;03", "30;85;03"), (10, 2, 2)),
        # Three forms: 4 of 10 do not lead.
        (("91", "40;84;03", "30;95;04", "30;85;05"), (10, 2, 255)),
        # 4 (B) + 3 (C) = 7 of 10 lead over A's 3; the same for big floes.
        (("91", "30;95;02", "40;91;05", "30;93;05"), (10, 4, 4)),
        # Of 4 + 4 + 2 tenths of old ice, A gets C's 2 and B gets C's 2: 6 of 10 do not reach 0.65.
        (("91", "40;95;06", "40;96;07", "20;97;06"), (10, 255, 255)),
        # Of 3 + 5 + 2 tenths, B + C = 7 do.
        (("91", "30;95;06", "50;96;07", "20;97;06"), (10, 5, 5)),
        # 2 of 3 are 0.667; 5 of 8 are 0.625; 6 of 9 are 0.667; 4 of 6 are 0.667, 3 of 5 are 0.6.
        (("30", "20;81;02", "10;95;06"), (3, 1, 1)),
        (("80", "50;81;02", "30;95;06"), (8, 255, 255)),
        (("90", "60;81;02", "30;95;06"), (9, 1, 1)),
        (("60", "20;95;06", "40;81;02"), (6, 1, 1)),
        (("50", "30;81;02", "20;95;06"), (5, 255, 255)),
        # Fast ice in any partial hides the floe size, not the stage.
        (("92", "90;91;08", "10;84;06"), (10, 4, 255)),
        (("91", "90;91;06", "10;84;08"), (10, 4, 255)),
        (("91", "80;91;06", "10;84;06", "10;95;08"), (10, 4, 255)),
        # So do shuga, level and pancake ice, which share its class; an unknown form does not.
        (("91", "90;91;06", "10;84;01"), (10, 4, 255)),
        (("91", "90;91;06", "10;84;21"), (10, 4, 255)),
        (("91", "90;91;06", "10;84;22"), (10, 4, 255)),
        (("91", "90;91;06", "10;84;99"), (10, 4, 5)),
        (("91", "90;91;99", "10;84;06"), (10, 4, 255)),
        # Glacier ice and unknown stages are masked, alone and together.
        (("91", "-9;98;10"), (10, 255, 6)),
        (("91", "-9;99;10"), (10, 255, 6)),
        (("91", "50;98;10", "50;99;09"), (10, 255, 6)),
        # Ice without a stage of development is class 0.
        (("40", "-9;80;03"), (4, 0, 2)),
        # No ice, bergy water and less than a tenth are water in all charts, whatever else is said.
        (("00", NONE), (0, 0, 0)),
        (("01", "-9;95;08"), (0, 0, 0)),
        (("02", "91;95;06"), (0, 0, 0)),
        (("55", NONE), (0, 0, 0)),
        # Unfilled and unknown totals count as -9 and 99, as in the challenge's conversion: -9 / -9 and 99 / 99 are all.
        (("-9", NONE), (255, 255, 255)),
        (("99", "-9;95;06"), (255, 5, 5)),
        (("-9", "40;95;06"), (255, 255, 255)),
        # Shares without a stage or form do not add up: 4 + 4 would lead over 7.
        (("91", "40;-9;-9", "40;-9;-9", "70;81;06"), (10, 1, 5)),
        (("91", "40;-9;-9", "70;81;06", "40;-9;-9"), (10, 1, 5)),
        (("91", "70;81;06", "40;-9;-9", "40;-9;-9"), (10, 1, 5)),
        # B unfilled but of A's class takes 9 from A: 10 - 9 of 10 is not enough.
        (("91", "-9;95;06", "-9;96;05"), (10, 255, 5)),
    ],
)
def test_hand_worked_polygon_gives_its_classes(fields, expected):
    assert _shown(*fields) == expected


@pytest.mark.parametrize("kind", ["W", "w"])
@pytest.mark.parametrize("total", ["91", "-9", "99", "00"])
def test_polygon_of_type_water_is_water_in_all_charts(kind, total):
    assert _shown(total, "90;95;08", kind=kind) == (0, 0, 0)


def test_of_equal_shares_the_first_leads():
    assert _shown("91", "50;95;06", "50;81;02", threshold=0.5) == (10, 5, 5)


@pytest.mark.parametrize("share,total", [(7, 10), (3, 5), (2, 5), (1, 2), (9, 10), (4, 5), (3, 10)])
def test_a_share_equal_to_the_threshold_is_enough(share, total):
    code = "91" if total == 10 else f"{10 * total}"
    # No pair of tenths makes 0.65, so other thresholds show that equality is enough.
    exact = share / total
    assert _shown(code, f"{10 * share};95;06", threshold=exact) == (total, 5, 5)
    assert _shown(code, f"{10 * share};95;06", threshold=exact + 1e-6) == (total, 255, 255)
    assert (_shown(code, f"{10 * share};95;06")[1] == 5) == (20 * share >= 13 * total)


def test_raster_takes_the_classes_of_its_polygons_and_is_masked_outside():
    codes = [
        HEADER,
        _record("91", "90;95;06", "10;93;06", number=46),
        _record("00", kind="W", number=0),
        _record("50", "30;81;02", "20;95;06", number=3),
        _record("91", "-9;91;08", number=900),
    ]
    ids = np.array([[46, 46, np.nan], [0, 3, 900]], np.float32)
    charts = polygons_to_charts(ids, codes)
    expected = {
        "SIC": [[10, 10, 255], [0, 5, 10]],
        "SOD": [[5, 5, 255], [0, 255, 4]],
        "FLOE": [[5, 5, 255], [0, 255, 255]],
    }
    assert list(charts) == list(expected)
    for name, chart in charts.items():
        assert chart.dtype == np.uint8
        np.testing.assert_array_equal(chart, expected[name])
        np.testing.assert_array_equal(polygons_to_charts(ids.astype(float), codes)[name], chart)


def test_blocks_of_rows_join_to_what_one_polygon_at_a_time_gives():
    rng = np.random.default_rng(0)
    numbers = rng.permutation(300)[:40]
    records = [
        _record(
            str(rng.choice(["10", "50", "90", "91", "02"])),
            *(
                ";".join(rng.choice(codes) for codes in (["-9", "10", "70"], ["81", "95"], ["02", "06", "08"]))
                for _ in "AB"
            ),
            number=int(number),
        )
        for number in numbers
    ]
    # 3 blocks and a part of one, of rows that do not divide it.
    ids = rng.choice([*numbers, np.nan], (430, 1001)).astype(np.float32)
    charts = polygons_to_charts(ids, [HEADER, *records])
    expected = {name: np.full(ids.shape, 255) for name in charts}
    for number, shown in polygon_classes([HEADER, *records]).items():
        for name in expected:
            expected[name][ids == number] = getattr(shown, name.lower())
    for name, chart in charts.items():
        np.testing.assert_array_equal(chart, expected[name])


@pytest.mark.filterwarnings("error")
def test_raster_without_polygons_is_masked():
    for shape in ((3, 4), (0, 4), (3, 0)):
        for codes in ([HEADER], [HEADER, _record("91")]):
            charts = polygons_to_charts(np.full(shape, np.nan, np.float32), codes)
            assert all(chart.shape == shape and (chart == 255).all() for chart in charts.values())


def test_header_names_the_fields_in_any_order():
    codes = ["POLY_TYPE;SA;CT;CA;FA;FB;CB;SB;CC;SC;FC;poly_id;extra", "I;95;91;-9;06;-9;-9;-9;-9;-9;-9;8;x"]
    assert polygon_classes(codes) == {8: PolygonClasses(10, 5, 5)}


def test_of_two_records_of_one_polygon_the_later_counts():
    assert polygon_classes([HEADER, _record("10"), _record("20")])[1].sic == 2


@pytest.mark.parametrize(
    "codes,message",
    [
        ([], "polygon_codes is empty"),
        ([HEADER.replace(";SA", "")], "lacks SA: its first element must name the fields"),
        ([_record("91")], "lacks poly_id, CT"),
        ([HEADER, _record("91") + ";x"], "has 16 fields: the header names 15"),
        ([HEADER, "x" + _record("91")], "its id must be a whole number"),
        ([HEADER, "-" + _record("91")], "its id must be a whole number"),
        (
            [HEADER, _record("45", number=46)],
            "polygon 46: CT = 45 is no code for a concentration: known are -9, 00, 01",
        ),
        ([HEADER, _record("91", "13;95;06")], "polygon 1: CA = 13 is no code for a concentration"),
        ([HEADER, _record("91", NONE, "10;70;06")], "polygon 1: SB = 70 is no code for a stage of development"),
        ([HEADER, _record("91", NONE, NONE, "10;95;11")], "polygon 1: FC = 11 is no code for a form of ice"),
        ([HEADER, _record("91", "10;95;x")], "polygon 1: FA = x is no code"),
        ([HEADER, _record("91", "10;;06")], "polygon 1: SA = .* is no code"),
        ([HEADER, _record("91", "77;95;06", kind="W")], "polygon 1: CA = 77"),
    ],
)
def test_record_that_cannot_be_understood_is_refused_in_a_line(codes, message):
    with pytest.raises(DataError, match=message) as caught:
        polygons_to_charts(np.full((2, 2), np.nan), codes)
    assert re.fullmatch(r".+; (correct the record|get the scene again)", str(caught.value))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("stray", [7, 5, 6, 0, -1, -9, 1e9, 2.5, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_polygon_of_the_raster_without_a_record_is_refused_in_a_line(stray, dtype):
    ids = np.full((700, 800), np.nan, dtype)
    ids[0, :3] = [1, 2, 4]
    ids[699, 799] = stray
    codes = [HEADER, *(_record("91", number=number) for number in (1, 2, 4))]
    with pytest.raises(
        DataError, match=rf"^polygon {re.escape(f'{dtype(stray):g}')} of the chart has no record"
    ) as caught:
        polygons_to_charts(ids, codes)
    assert "\n" not in str(caught.value)


def test_whole_scene_takes_seconds():
    rng = np.random.default_rng(0)
    codes = [HEADER, *(_record("91", "90;95;06", "10;93;06", number=number) for number in range(2, 400))]
    part = rng.integers(2, 400, (20, 104)).astype(np.float32)
    ids = np.repeat(np.repeat(part, 100, 0), 100, 1)
    start = time.process_time()
    charts = polygons_to_charts(ids, codes)
    seconds = time.process_time() - start
    assert (charts["SIC"] == 10).all()
    # A fifth of a raw scene took 0.1 to 0.3 s of one core; a mask per polygon takes 5 s.
    assert seconds < 1.5
