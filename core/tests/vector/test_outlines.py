"""Outlines of every format on one scene: what is read of them, said of them, and refused."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import shapely
from shapely.geometry import GeometryCollection, LineString, Point, Polygon, box

from geocore.errors import DataError, SettingsError
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid
from geocore.vector import features
from geocore.vector.attributes import parse_where
from geocore.vector.features import rasterize
from geocore.vector.outlines import read_outlines

UTM = "EPSG:32652"
WEST, NORTH = 500000.0, 7976930.0
GRID = Grid(40, 50, (10.0, 0.0, WEST, 0.0, -10.0, NORTH), UTM, length_unit="m")
SQUARES = [box(500100, 7976700, 500200, 7976800), box(500210, 7976700, 500250, 7976740)]
BOW_TIE = Polygon([(500300, 7976600), (500400, 7976700), (500400, 7976600), (500300, 7976700)])


def write(
    path: Path, shapes: list[Any], crs: str | None = UTM, columns: dict[str, list[Any]] | None = None, **options: Any
) -> Path:
    table = geopandas.GeoDataFrame(columns or {"n": range(len(shapes))}, geometry=shapes, crs=crs)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_file(path, **options)
    return path


def in_degrees(shapes: list[Any]) -> list[Any]:
    return list(geopandas.GeoSeries(shapes, crs=UTM).to_crs("EPSG:4326"))


def geojson(path: Path, shapes: list[Any], properties: list[dict[str, Any]] | None = None) -> Path:
    """As people write it by hand: numbers as they are, without `crs`."""
    rows = properties or [{} for _ in shapes]
    features = [
        {"type": "Feature", "properties": row, "geometry": shape.__geo_interface__}
        for row, shape in zip(rows, shapes, strict=True)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.parquet"])
def test_outlines_of_every_format(tmp_path: Path, name: str) -> None:
    found = read_outlines(write(tmp_path / name, SQUARES), GRID, scene="s.tif")
    assert all(a.equals(b) for a, b in zip(found.geometries, SQUARES, strict=True))
    assert (found.values, found.notes) == ([], (f"{name}: 2 outlines: 2 on s.tif",))


def test_outlines_in_another_crs_are_moved_and_that_is_said(tmp_path: Path) -> None:
    found = read_outlines(write(tmp_path / "a.geojson", in_degrees(SQUARES), "EPSG:4326"), GRID)
    # GeoJSON holds 7 digits or more: a centimetre.
    assert all(a.hausdorff_distance(b) < 0.02 for a, b in zip(found.geometries, SQUARES, strict=True))
    assert found.notes == ("a.geojson: 2 outlines, brought from EPSG:4326 to EPSG:32652: 2 on the scene",)


def test_geojson_without_crs_is_longitude_and_latitude_and_with_one_is_not(tmp_path: Path) -> None:
    path = geojson(tmp_path / "a.geojson", in_degrees(SQUARES))
    assert len(read_outlines(path, GRID).geometries) == 2
    content = json.loads(geojson(path, SQUARES).read_text())
    content["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32652"}}
    path.write_text(json.dumps(content))
    found = read_outlines(path, GRID)
    assert all(a.equals(b) for a, b in zip(found.geometries, SQUARES, strict=True))
    assert "brought" not in found.notes[0]


def test_every_fate_is_counted(tmp_path: Path) -> None:
    high = Polygon([(500000, 7976600, 5), (500100, 7976600, 6), (500100, 7976650, 7)])
    border = box(WEST - 30, NORTH - 30, WEST + 20, NORTH - 10)
    beside, outside = box(WEST - 30, NORTH - 30, WEST, NORTH), box(0, 0, 10, 10)
    nothing = [Polygon(), None, Point(1, 1), LineString([(0, 0), (1, 1)]), Polygon([(0, 0), (1, 1), (0, 0)])]
    shapes = [BOW_TIE, *nothing, *SQUARES, high, border, beside, outside]
    found = read_outlines(write(tmp_path / "a.parquet", shapes), GRID, scene="s.tif")
    assert found.notes == (
        "a.parquet: 12 outlines: 5 on s.tif, 1 of them cut by its border, 1 repaired, 2 outside it, 2 empty, 1 point, "
        "1 line, 1 without an area",
    )
    assert [shape.is_valid for shape in found.geometries] == [True] * 5
    # The two triangles of the bow tie; what the border cuts is whole.
    assert found.geometries[0].area == pytest.approx(5000)
    assert found.geometries[4].equals(border)
    assert not found.geometries[3].has_z


def test_a_file_without_crs_is_taken_only_where_the_scene_has_none(tmp_path: Path) -> None:
    path, bare = write(tmp_path / "a.shp", SQUARES, None), Grid(40, 50, GRID.transform)
    assert len(read_outlines(path, bare).geometries) == 2
    with pytest.raises(DataError, match=r"a.shp: states no CRS, and the scene has EPSG:32652: .*\.prj"):
        read_outlines(path, GRID)
    with pytest.raises(DataError, match=r"a.gpkg: is in EPSG:32652, and s.tif states no CRS.*gdal_edit.py -a_srs"):
        read_outlines(write(tmp_path / "a.gpkg", SQUARES), bare, scene="s.tif")
    with pytest.raises(DataError, match=r"outlines need a georeference, and s.tif has none"):
        read_outlines(path, Grid(40, 50), scene="s.tif")


def test_of_several_layers_the_one_with_polygons_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [Point(1, 1)], layer="points")
    write(path, SQUARES, layer="slumps")
    assert len(read_outlines(path, GRID).geometries) == 2
    write(path, SQUARES, layer="others")
    with pytest.raises(DataError, match="slumps, others"):
        read_outlines(path, GRID)


def test_polygons_in_a_layer_of_mixed_geometries_are_found_behind_one_of_points(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [Point(1, 1)], layer="points")
    write(path, [*SQUARES, LineString([(0, 0), (1, 1)])], layer="mixed")
    found = read_outlines(path, GRID)
    assert found.notes == ("a.gpkg: 3 outlines: 2 on the scene, 1 line",)


def test_what_a_projection_spoils_is_repaired_or_counted(tmp_path: Path) -> None:
    # Straight in degrees, its lower edge becomes a chord that crosses the two upper ones; the cap becomes a line.
    bent, cap = Polygon([(-105, 60), (15, 60), (15, 62), (-45, 62), (-105, 62)]), box(-180, 60, 180, 90)
    polar = Grid(800, 800, (1e4, 0.0, -4e6, 0.0, -1e4, 4e6), "EPSG:3413")
    found = read_outlines(write(tmp_path / "bent.gpkg", [bent, cap], "EPSG:4326"), polar)
    assert found.notes[0].endswith("1 on the scene, 1 repaired, 1 without an area")
    assert found.geometries[0].is_valid and found.geometries[0].area > 0
    # A transverse Mercator projection has no place for points 90 degrees from its meridian.
    path = write(tmp_path / "far.gpkg", [box(129.0, 71.0, 129.1, 71.1), box(38.9, -0.1, 39.1, 0.1)], "EPSG:4326")
    approximate = "+proj=tmerc +approx +lon_0=129 +k=0.9996 +x_0=500000 +ellps=WGS84"
    around = Grid(200, 200, (1e3, 0.0, 4e5, 0.0, -1e3, 8e6), approximate)
    found = read_outlines(path, around)
    assert found.notes[0].endswith("1 on the scene, 1 without a place in its CRS")
    assert np.isfinite(found.geometries[0].bounds).all()


def test_files_that_are_no_outlines(tmp_path: Path) -> None:
    for name in ("a.gpkg", "a.shp", "a.geojson", "a.parquet"):
        (tmp_path / name).write_text("not a vector file")
        with pytest.raises(DataError, match=f"{name}: cannot be read as outlines"):
            read_outlines(tmp_path / name, GRID)
    pyogrio.write_dataframe(pd.DataFrame({"id": [1], "name": ["slump"]}), tmp_path / "table.gpkg", layer="a")
    with pytest.raises(DataError, match=r"table.gpkg: holds no geometries"):
        read_outlines(tmp_path / "table.gpkg", GRID)
    with pytest.raises(DataError, match="no such file"):
        read_outlines(tmp_path / "absent.gpkg", GRID)


FOLLOWED = {
    "virtual layer": "<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>{at}</SrcDataSource></OGRVRTLayer>"
    "</OGRVRTDataSource>",
    "behind a brace": "{{'a': '<OGRVRTDataSource><OGRVRTLayer name=\"a\"><SrcDataSource>{at}</SrcDataSource>"
    "</OGRVRTLayer></OGRVRTDataSource>'}}",
    "service": "<OGRWFSDataSource><URL>{at}/wfs</URL></OGRWFSDataSource>",
    "commands": '{{"type": "gdal_streamed_alg", "command_line": "gdal vector convert /vsicurl/{at}/a.geojson"}}',
}


@pytest.mark.parametrize("kind", FOLLOWED)
@pytest.mark.parametrize("name", ["a.geojson", "a.gpkg", "a.shp", "a.json"])
def test_no_text_leads_to_other_outlines(tmp_path: Path, kind: str, name: str, server: tuple[str, list[str]]) -> None:
    secret = write(tmp_path / "secret.gpkg", SQUARES, UTM)
    for place in (str(secret), server[0]):
        (tmp_path / name).write_text(FOLLOWED[kind].format(at=place))
        with pytest.raises(DataError, match=f"{name}: cannot be read as outlines"):
            read_outlines(tmp_path / name, GRID)
    assert not server[1]


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_pipes_are_no_outlines(tmp_path: Path) -> None:
    for name in ("a.gpkg", "a.shp", "a.geojson", "a.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: is a named pipe: must be a readable file"):
            read_outlines(tmp_path / name, GRID)
    write(tmp_path / "b.shp", SQUARES, UTM)
    for ending in (".dbf", ".shx", ".cpg"):
        (tmp_path / "b").with_suffix(ending).unlink()
        os.mkfifo(tmp_path / f"b{ending}")
        with pytest.raises(DataError, match=f"b.shp: is read with b{ending}, which lies beside it and is a named pipe"):
            read_outlines(tmp_path / "b.shp", GRID)
        os.unlink(tmp_path / f"b{ending}")


def test_only_a_file_of_no_features_is_background_and_that_is_said(tmp_path: Path) -> None:
    for name, crs in (("a.gpkg", UTM), ("a.shp", UTM), ("a.parquet", UTM), ("a.geojson", "EPSG:4326")):
        found = read_outlines(write(tmp_path / name, [], crs), GRID, scene="s.tif")
        assert (found.geometries, found.notes) == ([], (f"{name}: holds no outline: all of s.tif is background",))


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(features.importlib, "import_module", absent)
    with pytest.raises(SettingsError, match=r'pip install "geocore\[polygons\]"'):
        read_outlines(tmp_path / "a.gpkg", GRID)


def swap(shape: Any) -> Any:
    return shapely.transform(shape, lambda places: places[:, ::-1])


def missed(kind: str, folder: Path) -> Path:
    """Outlines of the scene, written as they often are."""
    match kind:
        case "latitude first":
            return geojson(folder / "a.geojson", [swap(shape) for shape in in_degrees(SQUARES)])
        case "metres without crs":
            return geojson(folder / "a.geojson", SQUARES)
        case "metres without crs, northing first":
            return geojson(folder / "a.geojson", [swap(shape) for shape in SQUARES])
        case "another zone stated":
            return write(folder / "a.gpkg", SQUARES, "EPSG:32653")
        case "numbers of another zone":
            moved = list(geopandas.GeoSeries(SQUARES, crs=UTM).to_crs("EPSG:32651"))
            return write(folder / "a.gpkg", moved, UTM)
        case "degrees called metres":
            return write(folder / "a.gpkg", in_degrees(SQUARES), UTM)
        case "zone of the scene":
            # The scene states 52 and lies in 51.
            true = list(geopandas.GeoSeries(SQUARES, crs="EPSG:32651").to_crs("EPSG:4326"))
            return geojson(folder / "a.geojson", true)
        case "another place":
            return write(folder / "a.gpkg", [box(600100, 7976700, 600200, 7976800)])
        case "around the scene":
            return write(
                folder / "a.gpkg", [box(499000, 7976700, 499100, 7976800), box(501000, 7976700, 501100, 7976800)]
            )
        case "points":
            return write(folder / "a.gpkg", [shape.centroid for shape in SQUARES])
        case "lines":
            return write(folder / "a.shp", [LineString(shape.exterior) for shape in SQUARES])
        case "a collection of points":
            return write(folder / "a.gpkg", [GeometryCollection([Point(1, 1)])])
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("latitude first", r"0 of 2 outlines lie on s.tif: they span longitude 71.89\d+ to 71.89\d+, latitude 129.00"
         r"\d+ to 129.00\d+, EPSG:4326, and s.tif x 500000 to 500500, y 7976530 to 7976930, EPSG:32652: latitude and "
         r"longitude are swapped"),
        ("metres without crs", r"its numbers are in EPSG:32652, the scene's CRS, not EPSG:4326: state that CRS in the "
         r"file \(GeoJSON without crs is longitude and latitude, RFC 7946\)"),
        ("metres without crs, northing first", r"EPSG:32652, not EPSG:4326, with x and y swapped"),
        ("another zone stated", r"y 7976700 to 7976800, EPSG:32653, and s.tif .* are in EPSG:32652, the scene's CRS"),
        ("numbers of another zone", r"of another UTM zone, EPSG:32651, not EPSG:32652"),
        ("degrees called metres", r"its numbers are longitude and latitude, not EPSG:32652: state EPSG:4326"),
        ("zone of the scene", r"the scene fits when read as EPSG:32651: the zone that it states is wrong"),
        ("another place", r"they span x 600100 to 600200, .*: check the pair"),
        ("around the scene", r"give the outlines of this scene, or an empty file where it truly has none"),
        ("points", r"holds 2 points and no polygon: .*buffer the points"),
        ("lines", r"holds 2 lines and no polygon: .*Lines to polygons"),
        ("a collection of points", r"holds 1 point and no polygon"),
    ],
)  # fmt: skip
def test_outlines_of_which_none_lands_are_refused_with_both_places_and_the_cause(
    tmp_path: Path, kind: str, message: str
) -> None:
    path = missed(kind, tmp_path)
    with pytest.raises(DataError, match=message) as refused:
        read_outlines(path, GRID, scene="s.tif")
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


FOUR = [box(500000 + 50 * i, 7976700, 500030 + 50 * i, 7976730) for i in range(4)]
ARTS = {"TrainClass": ["Positive", "Positive", "Negative", "Negative"], "LabelType": ["Polygon"] * 4, "UID": [*"abcd"]}


def test_a_column_that_says_no_is_never_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "arts.gpkg", FOUR, columns=ARTS)
    rule = (
        r"arts.gpkg: its column TrainClass holds Negative \(2\), Positive \(2\).*--where TrainClass=Positive.*--label-"
    )
    with pytest.raises(DataError, match=rule):
        read_outlines(path, GRID)
    found = read_outlines(path, GRID, where=parse_where(["TrainClass=positive"]))
    assert all(a.equals(b) for a, b in zip(found.geometries, FOUR[:2], strict=True))
    assert found.notes == ("arts.gpkg: 4 outlines, of which 2 have TrainClass=positive: 2 on the scene",)
    # All of them, once every value is named.
    both = parse_where(["TrainClass=Positive", "TrainClass=Negative"])
    assert len(read_outlines(path, GRID, where=both).geometries) == 4
    assert read_outlines(path, GRID, column="TrainClass").values == ARTS["TrainClass"]


@pytest.mark.parametrize(
    "columns",
    [
        {"class": [1, 1, 0, 1]},
        {"label": ["slump", "not a slump", "slump", None]},
        {"is_slump": [True, False, True, True]},
        {"type": ["background"] * 4},
        {"checked": ["yes", "no", "yes", "yes"]},
    ],
)
def test_values_that_say_no_in_any_words(tmp_path: Path, columns: dict[str, list[Any]]) -> None:
    path = write(tmp_path / "a.gpkg", FOUR, columns=columns)
    with pytest.raises(DataError, match=f"its column {next(iter(columns))} holds"):
        read_outlines(path, GRID)


def test_a_column_that_merely_looks_like_a_class_is_told(tmp_path: Path) -> None:
    columns = {
        "LabelType": ["Polygon", "BoundingBox", "Polygon", "Polygon"],
        "id": [0, 0, 1, 1],
        "ImageDate": ["2020-07-01", "2020-07-01", "2021-07-01", "2021-07-01"],
        "area_m2": [3, 3, 4, 4],
        "score": [0.5, 0.5, 0.25, 0.25],
        "note": ["steep", "wet", "old", "new"],
    }
    found = read_outlines(write(tmp_path / "a.gpkg", FOUR, columns=columns), GRID)
    assert found.notes[1:] == (
        "a.gpkg: column LabelType looks like a class and is not used: Polygon (3), BoundingBox (1); choose by it with "
        "--where, or make classes of it with --label-column",
    )
    where = parse_where(["LabelType=Polygon", "area_m2=3"])
    found = read_outlines(tmp_path / "a.gpkg", GRID, where=where, column="note")
    assert (len(found.geometries), found.values, len(found.notes)) == (1, ["steep"], 1)


def test_values_follow_the_outlines_that_lie_on_the_scene(tmp_path: Path) -> None:
    shapes = [box(0, 0, 1, 1), FOUR[0], Point(1, 1), FOUR[1]]
    path = write(tmp_path / "a.parquet", shapes, columns={"kind": [7.0, 1.0, 3.0, None]})
    assert read_outlines(path, GRID, column="kind").values == ["1", ""]


def test_conditions_that_cannot_be_met(tmp_path: Path) -> None:
    path = write(tmp_path / "arts.gpkg", FOUR, columns=ARTS)
    with pytest.raises(DataError, match=r"no column 'trainclass': did you mean TrainClass\?"):
        read_outlines(path, GRID, where=parse_where(["trainclass=Positive"]))
    with pytest.raises(DataError, match=r"no column 'x': its columns are TrainClass, LabelType, UID"):
        read_outlines(path, GRID, column="x")
    with pytest.raises(DataError, match=r"no outline has TrainClass=Positve: .* did you mean TrainClass=Positive\?"):
        read_outlines(path, GRID, where=parse_where(["TrainClass=Positve"]))
    found = read_outlines(path, GRID, where=parse_where(["TrainClass=Positive", "LabelType=BoundingBox"]))
    assert found.notes == (
        "arts.gpkg: 4 outlines, of which 0 have TrainClass=Positive and LabelType=BoundingBox: all of the scene is "
        "background",
    )
    for condition in ("TrainClass", "=Positive", "TrainClass="):
        with pytest.raises(SettingsError, match="such as TrainClass=Positive"):
            parse_where([condition])


@pytest.mark.real
@pytest.mark.skipif("GEOCORE_DATA" not in os.environ, reason="GEOCORE_DATA names no folder of real data")
@pytest.mark.parametrize("expert", ["01", "03", "05"])
def test_outlines_of_experts_burn_as_published(expert: str) -> None:
    """Masks of the same outlines, made with GDAL by the centre rule, the largest outline first."""
    folder = Path(os.environ["GEOCORE_DATA"]) / "thaw-slump"
    with open_raster(folder / f"masks/Bykovsky_S2_expert_{expert}_instances.tif") as scene:
        grid, burnt = scene.grid, scene.read_layers(scene.grid.whole)["image"].values[0]
    found = read_outlines(folder / f"labels/expert_{expert}/Bykovsky_digitized.shp", grid)
    largest_first = sorted(found.geometries, key=lambda shape: -shape.area)
    assert np.array_equal(rasterize(largest_first, grid), burnt)


GRID_OF_SHIFTS = 'EXTENSION["PROJ4_GRIDS","/dev/stdin"]'


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.geojson", "a.json", "a.parquet"])
def test_a_crs_that_names_files_by_their_path_is_not_read(tmp_path: Path, name: str) -> None:
    """GDAL would open them, wherever they lie, and wait for ever for a pipe or a terminal."""
    path = write(tmp_path / name, SQUARES)
    wkt = pyproj.CRS(UTM).to_wkt("WKT1_GDAL").replace('AUTHORITY["EPSG","6326"]', GRID_OF_SHIFTS)
    assert GRID_OF_SHIFTS in wkt
    match path.suffix:
        case ".gpkg":
            with closing(sqlite3.connect(path)) as database, database:
                database.execute("UPDATE gpkg_spatial_ref_sys SET definition = ? WHERE srs_id = 32652", (wkt,))
        case ".shp":
            path.with_suffix(".prj").write_text(wkt)
        case ".geojson":
            content = json.loads(path.read_text())
            content["crs"] = {"type": "name", "properties": {"name": wkt}}
            path.write_text(json.dumps(content))
        case ".json":
            content = json.loads(path.read_text())
            content["crs"] = {"type": "name", "properties": {"name": "+proj=longlat +nadgrids=@/dev/stdin"}}
            path.write_text(json.dumps(content).replace("nadgrids", "nadgri\\u0064s").replace("/dev/", "\\/dev\\/"))
        case _:
            crs = pyproj.CRS("+proj=longlat +ellps=bessel +nadgrids=/dev/stdin +type=crs")
            geopandas.GeoDataFrame(geometry=SQUARES, crs=crs).to_parquet(path)
    with pytest.raises(
        DataError, match=f"{name}: its CRS.* names files of shifts by their path, which are not followed"
    ):
        read_outlines(path, GRID)


def test_texts_that_are_no_crs_may_be_of_anything(tmp_path: Path) -> None:
    path = geojson(
        tmp_path / "a.geojson", in_degrees(SQUARES), [{"url": "https://example.org/?grids=a/b"}, {"n": "file=/a"}]
    )
    assert len(read_outlines(path, GRID).geometries) == 2
