from __future__ import annotations

import json

import pytest

from geocore.errors import DataError
from geocore.raster.bands import Band, Bands, taken_for

WINDS = Bands((Band("u10", "m/s"), Band("v10", "m/s"), Band("t2m", "K", scale=0.01, offset=200)), (("u10", "v10"),))


def test_bands_are_selected_and_ordered_by_name() -> None:
    bands = Bands.named("B02", "B03", "B04")
    assert bands.names == ("B02", "B03", "B04")
    assert len(bands) == 3
    assert bands.indices(("B04", "B02")) == (2, 0)
    assert bands.select(("B04", "B02")).names == ("B04", "B02")
    assert bands["B03"] == Band("B03")
    assert "B03" in bands
    assert "B05" not in bands
    assert [band.name for band in bands] == ["B02", "B03", "B04"]


def test_unknown_name_is_an_error_that_lists_what_exists() -> None:
    with pytest.raises(DataError, match="'B9'.*B02, B03") as caught:
        Bands.named("B02", "B03").indices(("B02", "B9"))
    assert "\n" not in str(caught.value)


def test_names_must_be_unique() -> None:
    with pytest.raises(DataError, match="'B02' occurs more than once"):
        Bands.named("B02", "B03", "B02")
    with pytest.raises(DataError, match="more than once"):
        WINDS.select(("t2m", "t2m"))


def test_vector_pair_stays_only_while_both_components_do() -> None:
    assert WINDS.select(("v10", "u10")).vector_pairs == (("u10", "v10"),)
    assert WINDS.select(("u10", "t2m")).vector_pairs == ()
    with pytest.raises(DataError, match="'v11'"):
        Bands((Band("u10"), Band("v10")), (("u10", "v11"),))


@pytest.mark.parametrize("bands", [WINDS, Bands.named("1"), Bands((Band("B8A", "1", 1e-4, -0.1, 865.0),))])
def test_plain_values_round_trip_through_json(bands: Bands) -> None:
    assert Bands.from_dict(json.loads(json.dumps(bands.to_dict()))) == bands


@pytest.mark.parametrize(
    "plain",
    [{}, {"bands": [{}]}, {"bands": [{"name": "a", "gain": 2}]}, {"bands": 3}, {"bands": [], "x": 1}, {"bands": ["a"]}],
)
def test_malformed_plain_values_are_one_clear_line(plain: dict[str, object]) -> None:
    with pytest.raises(DataError) as caught:
        Bands.from_dict(plain)
    assert "\n" not in str(caught.value)


def test_bands_without_names_are_told():
    assert taken_for("a.tif", ("2", "3"), ("blue", "green")) == (
        "a.tif: bands without names: 2 is taken for blue, 3 is taken for green",
    )
    assert taken_for("a.tif", ("1", "2"), ("1", "2")) == ("a.tif: bands without names: 1, 2 are taken in this order",)
    assert taken_for("a.tif", ("B02", "B03"), ("blue", "green")) == taken_for("a.tif", ("1",), ("nir",)) == ()
