"""Every form of label becomes ids on the scene's grid, and what cannot is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from PIL import Image
from shapely.geometry import Polygon, box

from geocore.errors import DataError, UserError
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.write import write_raster
from slumps_detectron2.config import PrepareSettings
from slumps_detectron2.experts import expert_names, majority
from slumps_detectron2.labels import IGNORED, Labels, read_labels, without_gaps
from slumps_detectron2.pairs import ScenePair

CRS = "EPSG:32652"
EAST, NORTH, PIXEL = 500_000.0, 8_000_000.0, 10.0
SHAPE = (40, 50)


def _grid(shape: tuple[int, int] = SHAPE, *, row: float = 0, col: float = 0, crs: str = CRS) -> Grid:
    transform = (PIXEL, 0.0, EAST + PIXEL * col, 0.0, -PIXEL, NORTH - PIXEL * row)
    return Grid(*shape, transform, crs, length_unit="m")


GRID = _grid()


def _settings(**changes: Any) -> PrepareSettings:
    return PrepareSettings(**{"image": "scene.tif", "label": ["label.tif"], "out": "out"} | changes)


def _raster(path: Path, values: np.ndarray, grid: Grid | None = None, nodata: float | None = None) -> Path:
    grid = grid or _grid((values.shape[-2], values.shape[-1]))
    write_raster(path, values, grid=grid, nodata=nodata, cog=False)
    return path


def _outlines(path: Path, shapes: list[Any], crs: str = CRS) -> Path:
    frame = geopandas.GeoDataFrame({"name": [str(i) for i in range(len(shapes))]}, geometry=shapes, crs=CRS).to_crs(crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path


def _square(row: float, col: float, height: float, width: float) -> Polygon:
    """Pixels of the grid as a map polygon."""
    left, top = EAST + PIXEL * col, NORTH - PIXEL * row
    return box(left, top - PIXEL * height, left + PIXEL * width, top)


def _two_slumps(value: int = 255, dtype: str = "uint8") -> np.ndarray:
    """One slump of two parts that touch at a corner, and another one."""
    values = np.zeros(SHAPE, dtype)
    values[5:8, 5:8] = value
    values[8:10, 8:10] = value
    values[20:25, 30:35] = value
    return values


def test_zero_and_255_are_a_binary_mask_of_components_joined_at_corners(tmp_path: Path) -> None:
    labels = read_labels(_raster(tmp_path / "a.tif", _two_slumps()), GRID, _settings())
    assert (labels.kind, labels.count, labels.window) == ("binary", 2, GRID.whole)
    assert labels.ids.dtype == np.uint32
    expected = np.where(_two_slumps() > 0, 1, 0)
    expected[20:25, 30:35] = 2
    assert np.array_equal(labels.ids, expected)


@pytest.mark.parametrize("value", [1, 7, 255])
def test_binary_takes_any_value_but_zero(tmp_path: Path, value: int) -> None:
    path = _raster(tmp_path / "a.tif", _two_slumps(value))
    assert read_labels(path, GRID, _settings(label_kind="binary")).count == 2


def test_255_is_ignored_only_where_that_is_declared(tmp_path: Path) -> None:
    values = _two_slumps(1)
    values[30:] = 255
    path = _raster(tmp_path / "a.tif", values)
    declared = read_labels(path, GRID, _settings(label_kind="binary", ignore=255))
    assert (declared.ids[30:] == IGNORED).all() and declared.count == 2
    assert read_labels(path, GRID, _settings(label_kind="binary")).count == 3
    # Without a kind, 255 that is ignored does not make a mask of what is left.
    with pytest.raises(DataError, match=r"holds 0, 1, 255.*--label-kind"):
        read_labels(path, GRID, _settings(ignore=255))


def test_mask_of_nothing_but_ignored_pixels_and_background_needs_no_kind(tmp_path: Path) -> None:
    labels = read_labels(_raster(tmp_path / "a.tif", _two_slumps(255)), GRID, _settings(ignore=255))
    assert labels.count == 0
    assert np.array_equal(labels.ids == IGNORED, _two_slumps() == 255)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "int64", "uint64"])
def test_ids_keep_their_objects_whatever_their_values(tmp_path: Path, dtype: str) -> None:
    high = int(np.iinfo(dtype).max) - 3
    values = np.zeros(SHAPE, dtype)
    values[2:4, 2:4] = high
    values[2:4, 4:6] = 3  # touches the former and stays apart
    values[4:6, 2:4] = high - 1
    values[20, 20] = values[30, 40] = 100  # one object of two parts
    labels = read_labels(_raster(tmp_path / "a.tif", values), GRID, _settings(label_kind="instances"))
    assert labels.count == 4
    assert (labels.ids[2:4, 4:6] == 1).all()
    assert labels.ids[20, 20] == labels.ids[30, 40] == 2
    assert (labels.ids[4:6, 2:4] == 3).all() and (labels.ids[2:4, 2:4] == 4).all()


def test_id_255_is_an_object(tmp_path: Path) -> None:
    values = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE) % 300
    labels = read_labels(_raster(tmp_path / "a.tif", values), GRID, _settings(label_kind="instances"))
    assert np.array_equal(labels.ids, values)


def test_declared_value_among_ids_is_ignored_and_told(tmp_path: Path) -> None:
    values = np.array([[254, 255, 256, 0]], np.uint16)
    labels = read_labels(
        _raster(tmp_path / "a.tif", values), _grid((1, 4)), _settings(label_kind="instances", ignore=255)
    )
    assert labels.ids.tolist() == [[1, IGNORED, 2, 0]]
    assert "lies among the ids" in labels.notes[0]


def test_classes_make_components_of_each_value(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.uint16)
    values[5:8, 5:8], values[5:8, 8:10], values[20:22, 20:22] = 4, 9, 4
    values[0] = 300
    settings = _settings(label_kind="classes", class_names={4: "active", 9: "stable"}, ignore=300)
    labels = read_labels(_raster(tmp_path / "a.tif", values), GRID, settings)
    assert labels.count == 3
    assert np.unique(labels.ids[5:8, 5:8]).size == np.unique(labels.ids[5:8, 8:10]).size == 1
    assert labels.ids[5, 7] != labels.ids[5, 8]
    assert labels.classes is not None and labels.classes.dtype == np.uint8
    assert (labels.classes[5, 7], labels.classes[5, 8], labels.classes[0, 0], labels.classes[39, 0]) == (4, 9, 255, 0)
    assert (labels.ids[0] == IGNORED).all()


def test_one_class_of_value_1_needs_no_second_raster(tmp_path: Path) -> None:
    path = _raster(tmp_path / "a.tif", _two_slumps(1))
    labels = read_labels(path, GRID, _settings(label_kind="classes"))
    assert labels.count == 2 and labels.classes is None


def test_palette_image_is_read_by_value(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", _two_slumps(1), grid=GRID, colours={0: (0, 0, 0), 1: (255, 0, 0)}, cog=False)
    assert read_labels(tmp_path / "a.tif", GRID, _settings(label_kind="binary")).count == 2


@pytest.mark.parametrize(
    ("kind", "nodata", "dtype"),
    [("binary", 255, "uint8"), ("instances", 65535, "uint16"), ("classes", -1, "int16"), ("instances", -9999, "int32")],
)
def test_what_a_raster_calls_nodata_is_ignored_and_told(tmp_path: Path, kind: str, nodata: int, dtype: str) -> None:
    values = _two_slumps(1, dtype)
    values[30:] = nodata
    labels = read_labels(_raster(tmp_path / "a.tif", values, nodata=nodata), GRID, _settings(label_kind=kind))
    assert (labels.ids[30:] == IGNORED).all() and np.array_equal(labels.ids[:30] > 0, values[:30] == 1)
    assert labels.notes == (f"a.tif: 500 pixels are nodata ({nodata}): they neither train nor score",)
    if kind == "classes":
        several = _settings(label_kind="classes", class_names={1: "active", 2: "stable"})
        classes = read_labels(tmp_path / "a.tif", GRID, several).classes
        assert classes is not None and (classes[30:] == 255).all() and set(classes[:30].flat) == {0, 1}


def test_nodata_0_is_background_and_a_declared_class_is_a_class(tmp_path: Path) -> None:
    path = _raster(tmp_path / "a.tif", _two_slumps(), nodata=0)
    labels = read_labels(path, GRID, _settings())
    assert (labels.count, labels.notes) == (2, ()) and not (labels.ids == IGNORED).any()
    path = _raster(tmp_path / "b.tif", _two_slumps(2), nodata=2)
    labels = read_labels(path, GRID, _settings(label_kind="classes", class_names={1: "active", 2: "stable"}))
    assert (labels.count, labels.notes) == (2, ())


def test_nodata_that_is_the_only_mark_is_asked_for(tmp_path: Path) -> None:
    path = _raster(tmp_path / "a.tif", _two_slumps(), nodata=255)
    assert read_labels(path, GRID, _settings(label_kind="binary")).count == 2
    ignored = read_labels(path, GRID, _settings(ignore=255))
    assert ignored.count == 0 and np.array_equal(ignored.ids == IGNORED, _two_slumps() > 0)
    with pytest.raises(DataError, match=r"255 is its only mark and its nodata value: .* 38 .*--ignore 255"):
        read_labels(path, GRID, _settings())


def test_nodata_in_place_of_background_is_asked_for(tmp_path: Path) -> None:
    values = np.where(_two_slumps() > 0, 1, -9999).astype(np.int16)
    path = _raster(tmp_path / "a.tif", values, nodata=-9999)
    with pytest.raises(
        DataError, match=r"has no background: 1962 pixels are nodata \(-9999\).*-dstnodata 0.*--ignore -9999"
    ):
        read_labels(path, GRID, _settings(label_kind="binary"))
    assert (read_labels(path, GRID, _settings(label_kind="binary", ignore=-9999)).ids == IGNORED).sum() == 1962
    seen = Image.fromarray(np.dstack([_two_slumps(), _two_slumps()]), "LA")
    seen.save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"has no background: 1962 pixels are nodata \(0\).*drop its transparency"):
        read_labels(tmp_path / "b.png", GRID, _settings())


def test_rasters_that_are_no_masks_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(_two_slumps()).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a.jpg: JPEG changes values"):
        read_labels(tmp_path / "a.jpg", GRID, _settings())
    turned = np.array(Image.fromarray(_two_slumps()).rotate(10, Image.Resampling.BILINEAR))
    path = _raster(tmp_path / "b.tif", turned)
    for kind in (None, "binary"):
        with pytest.raises(DataError, match=r"b.tif: \d+ of its \d+ values, .*nearest neighbour"):
            read_labels(path, GRID, _settings(label_kind=kind))
    picture = np.random.default_rng(0).integers(0, 3000, SHAPE).astype(np.uint16)
    path = _raster(tmp_path / "c.tif", picture)
    with pytest.raises(DataError, match=r"c.tif: is a photograph"):
        read_labels(path, GRID, _settings(label_kind="binary"))
    with open_raster(path) as image:
        for kind in ("binary", "instances"):
            with pytest.raises(DataError, match=r"c.tif: holds the same pixels as s.tif"):
                read_labels(path, GRID, _settings(label_kind=kind), scene="s.tif", image=image)
    with open_raster(_raster(tmp_path / "d.tif", _two_slumps())) as image:
        for kind in ("binary", "instances"):
            with pytest.raises(DataError, match=r"c.tif: is a photograph .* the two are swapped"):
                read_labels(path, GRID, _settings(label_kind=kind), scene="d.tif", image=image)


def _damaged(kind: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A label that cannot be used, and settings with which it is read."""
    path, values = folder / "a.tif", _two_slumps(1)
    match kind:
        case "kind":
            return _raster(path, values), {}
        case "float":
            return _raster(path, _two_slumps().astype(np.float32) / 2), {"label_kind": "binary"}
        case "bands":
            return _raster(path, np.stack([values] * 3)), {"label_kind": "binary"}
        case "class":
            return _raster(path, _two_slumps(7)), {"label_kind": "classes"}
        case "negative":
            return _raster(path, _two_slumps(-9999, "int16")), {"label_kind": "instances"}
        case "nodata":
            return _raster(path, _two_slumps(255), nodata=255), {}
        case "crs":
            return _raster(path, values, _grid(crs="EPSG:32653")), {"label_kind": "binary"}
        case "no crs":
            return _raster(path, values, Grid(*SHAPE, GRID.transform)), {"label_kind": "binary"}
        case "half a pixel":
            return _raster(path, values, _grid(row=0.5)), {"label_kind": "binary"}
        case "pixel size":
            grid = Grid(*SHAPE, (20.0, 0.0, EAST, 0.0, -20.0, NORTH), CRS)
            return _raster(path, values, grid), {"label_kind": "binary", "like": True}
        case "part":
            return _raster(path, values[:30], _grid((30, 50), row=4)), {"label_kind": "binary"}
        case "elsewhere":
            return _raster(path, values, _grid(row=1000)), {"label_kind": "binary", "like": True}
        case "shape":
            return _raster(path, values[:30], Grid(30, 50)), {"label_kind": "binary", "like": True}
        case "no raster":
            path.write_text("nothing")
            return path, {}
        case _:
            raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("kind", r"holds 0, 1: .*--label-kind binary, classes or instances"),
        ("float", r"holds 127.5, and 38 such pixels"),
        ("bands", r"3 bands of uint8"),
        ("class", r"holds 7, but the classes are 1 slump"),
        ("negative", r"holds -9999: .*--ignore -9999"),
        ("nodata", r"255 is its only mark and its nodata value: .*--label-kind binary if these 38 .*--ignore 255"),
        ("crs", r"500500, .*, EPSG:32653, and the scene x .*, EPSG:32652: its numbers are in EPSG:32652"),
        ("no crs", r"no CRS, and the scene .*, EPSG:32652: only one of them states a CRS"),
        ("half a pixel", r"first pixel lies 0.5 rows below and 0 columns left of the scene's"),
        ("pixel size", r"its pixels are 20 x 20 wide, those of the scene 10 x 10"),
        ("part", r"30 x 50 px that cover a part of the scene only \(40 x 50 px\): give --like"),
        ("elsewhere", r"y 7989600 to 7990000, .*first pixel lies 1000 rows below"),
        ("shape", r"30 x 50 px, but the scene has 40 x 50 px"),
        ("no raster", r"cannot be opened as a raster"),
    ],
)
def test_label_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, kind: str, message: str) -> None:
    path, changes = _damaged(kind, tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        read_labels(path, GRID, _settings(**changes))
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_like_gives_the_part_that_the_label_covers(tmp_path: Path) -> None:
    # Less than the tolerance of a twentieth of a pixel off.
    path = _raster(tmp_path / "a.tif", _two_slumps()[:, :45], _grid((40, 45), row=3.96, col=-10))
    labels = read_labels(path, GRID, _settings(like=True))
    assert labels.window == Window(4, 0, 36, 35)
    assert np.array_equal(labels.ids > 0, _two_slumps()[:36, 10:45] > 0)


def test_pictures_match_pixel_by_pixel(tmp_path: Path) -> None:
    path = _raster(tmp_path / "a.tif", _two_slumps(), Grid(*SHAPE))
    assert read_labels(path, Grid(*SHAPE), _settings()).count == 2
    assert read_labels(path, GRID, _settings()).count == 2


@pytest.mark.parametrize(
    ("ending", "crs"),
    [
        *((ending, crs) for ending in (".gpkg", ".shp", ".parquet") for crs in (CRS, "EPSG:4326")),
        (".geojson", "EPSG:4326"),
    ],
)
def test_outlines_of_any_format_and_crs_become_ids(tmp_path: Path, ending: str, crs: str) -> None:
    path = _outlines(tmp_path / f"a{ending}", [_square(5, 5, 3, 4), _square(5, 9, 3, 4)], crs)
    labels = read_labels(path, GRID, _settings())
    assert (labels.kind, labels.count) == ("outlines", 2)
    assert labels.notes[0].startswith(f"a{ending}: 2 outlines") and labels.notes[0].endswith(": 2 on the scene")
    assert (labels.ids[5:8, 5:9] == 1).all() and (labels.ids[5:8, 9:13] == 2).all()
    assert np.count_nonzero(labels.ids) == 24


def test_what_happens_to_outlines_is_counted(tmp_path: Path) -> None:
    bow = Polygon([(EAST + x, NORTH - y) for x, y in ((100, 100), (160, 160), (160, 100), (100, 160))])
    sliver = _square(30.1, 30.1, 0.2, 0.2)
    path = _outlines(tmp_path / "a.gpkg", [sliver, bow, _square(5, 5, 3, 4), _square(500, 5, 3, 3)])
    labels = read_labels(path, GRID, _settings())
    assert labels.count == 2
    assert labels.ids[5, 5] == 2 and labels.ids[11, 10] == 1
    assert labels.notes == (
        "a.gpkg: 4 outlines: 3 on the scene, 1 repaired, 1 outside it",
        "a.gpkg: 1 of 3 outlines on the scene are lost: they cover no pixel's centre that smaller ones leave free",
    )


def test_only_a_file_of_no_outlines_means_background(tmp_path: Path) -> None:
    labels = read_labels(_outlines(tmp_path / "a.gpkg", []), GRID, _settings(), scene="s.tif")
    assert (labels.count, labels.ids.any()) == (0, False)
    assert labels.notes == ("a.gpkg: holds no outline: all of s.tif is background",)
    with pytest.raises(DataError, match=r"0 of 1 outlines lie on s.tif"):
        read_labels(_outlines(tmp_path / "b.gpkg", [_square(500, 5, 3, 3)]), GRID, _settings(), scene="s.tif")


def test_outlines_need_a_georeference_and_a_column_for_classes(tmp_path: Path) -> None:
    path = _outlines(tmp_path / "a.gpkg", [_square(5, 5, 3, 4)])
    with pytest.raises(DataError, match="outlines need a georeference"):
        read_labels(path, Grid(*SHAPE), _settings())
    with pytest.raises(DataError, match="have a class only by a column.*--label-column"):
        read_labels(path, GRID, _settings(label_kind="classes", class_names={1: "active", 2: "stable"}))


def test_a_column_makes_classes_of_outlines(tmp_path: Path) -> None:
    shapes = [_square(5, 5, 20, 20), _square(30.1, 30.1, 0.2, 0.2), _square(6, 6, 3, 4), _square(30, 5, 3, 3)]
    table = {"state": ["Stable", "active", "active", "3"]}
    geopandas.GeoDataFrame(table, geometry=shapes, crs=CRS).to_file(tmp_path / "a.gpkg")
    settings = _settings(class_names={1: "active", 2: "stable", 3: "gully"}, label_column="state")
    labels = read_labels(tmp_path / "a.gpkg", GRID, settings)
    assert labels.classes is not None and labels.classes.dtype == np.uint8
    # A small one on a large one; the sliver covers no pixel, and ids have no gap.
    assert np.bincount(labels.classes.ravel()).tolist() == [2000 - 409, 12, 388, 9]
    assert (labels.count, np.unique(labels.ids).tolist()) == (3, [0, 1, 2, 3])
    assert (labels.ids[6, 6], labels.classes[6, 6], labels.ids[5, 5], labels.classes[5, 5]) == (2, 1, 1, 2)
    one = read_labels(tmp_path / "a.gpkg", GRID, _settings(where=["state=active"]))
    assert (one.count, one.classes, np.count_nonzero(one.ids)) == (1, None, 12)
    with pytest.raises(DataError, match=r"column state holds '3', but the classes are 1 active, 2 stable.*--where"):
        read_labels(tmp_path / "a.gpkg", GRID, _settings(class_names={1: "active", 2: "stable"}, label_column="state"))


def test_what_is_said_of_experts_names_their_folders_where_files_share_a_name(tmp_path: Path) -> None:
    paths = []
    for name in ("anna", "ben"):
        (tmp_path / name).mkdir()
        paths.append(_outlines(tmp_path / name / "drawn.gpkg", [_square(5, 5, 3, 4)]))
    labels = majority(paths, GRID, _settings(), lambda path, drawn: None, scene="s.tif")
    assert labels.notes == tuple(f"{name}/drawn.gpkg: 1 outline: 1 on s.tif" for name in ("anna", "ben"))


def test_half_of_the_experts_decide(tmp_path: Path) -> None:
    shapes = {"anna": (0, 10), "ben": (5, 10), "cem": (9, 20), "dora": (40, 45)}
    paths = []
    for name, (start, stop) in shapes.items():
        values = np.zeros(SHAPE, np.uint8)
        values[3, start:stop] = 255
        if name == "dora":
            values[30] = 9
        paths.append(_raster(tmp_path / f"{name}.tif", values))
    kept: dict[str, Labels] = {}
    settings = _settings(label_kind="binary", ignore=9)
    labels = majority(paths, GRID, settings, lambda path, drawn: kept.update({path.stem: drawn}))
    assert set(kept) == set(shapes)
    assert np.flatnonzero(labels.ids[3]).tolist() == [5, 6, 7, 8, 9]
    assert (labels.kind, labels.count) == ("majority", 1)
    # One expert looked away from row 30; the three others found nothing there.
    assert not labels.ids[30].any()


def test_pixels_that_no_expert_looked_at_are_ignored_and_others_decide_alone(tmp_path: Path) -> None:
    first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    first[0], first[1] = 9, 9
    second[0], second[1] = 9, 255
    paths = [_raster(tmp_path / "a.tif", first), _raster(tmp_path / "b.tif", second)]
    labels = majority(paths, GRID, _settings(label_kind="binary", ignore=9), lambda path, drawn: None)
    assert (labels.ids[0] == IGNORED).all() and (labels.ids[1] == 1).all() and not labels.ids[2:].any()


def test_experts_must_look_at_the_same_ground(tmp_path: Path) -> None:
    paths = [_raster(tmp_path / "a.tif", _two_slumps()), _raster(tmp_path / "b.tif", _two_slumps()[:30])]
    with pytest.raises(DataError, match="cover different pixels"):
        majority(paths, GRID, _settings(like=True), lambda path, drawn: None)
    settings = _settings(label_kind="classes", class_names={1: "active", 2: "stable"})
    with pytest.raises(DataError, match="one kind of object only"):
        majority(paths, GRID, settings, lambda path, drawn: None)


def test_experts_are_called_by_file_or_folder() -> None:
    def names(*labels: str) -> list[str]:
        return expert_names(ScenePair(Path("east.tif"), tuple(map(Path, labels)), "east"))

    assert names("east_anna.gpkg", "ben.tif") == ["expert_anna", "expert_ben"]
    assert names("/x/expert_01/drawn.shp", "/x/expert_02/drawn.shp") == ["expert_01", "expert_02"]
    with pytest.raises(DataError, match="two labels are called 'x'"):
        names("/x/drawn.shp", "/x/drawn.gpkg")


def test_gaps_in_ids_are_closed_in_place() -> None:
    ids = np.array([[0, 2, IGNORED], [5, 2, 0]], np.uint32)
    assert without_gaps(ids, 5) == 2
    assert ids.tolist() == [[0, 1, IGNORED], [2, 1, 0]]


def _real() -> Path:
    return Path(os.environ["GEOCORE_DATA"]) / "thaw-slump"


real = pytest.mark.skipif("GEOCORE_DATA" not in os.environ, reason="GEOCORE_DATA is not set")


@pytest.mark.real
@real
def test_published_masks_need_a_kind_only_where_it_is_not_clear() -> None:
    with open_raster(next(_real().glob("raster/S2_*.tif"))) as scene:
        grid = scene.grid
    binary = read_labels(_real() / "masks/Bykovsky_S2_majority_binary255.tif", grid, _settings())
    assert binary.count == 4 and np.count_nonzero(binary.ids) == 887
    ids = _real() / "masks/Bykovsky_S2_majority_instances.tif"
    with pytest.raises(DataError, match=r"holds 0, 1, 2, 3, 4: .*--label-kind"):
        read_labels(ids, grid, _settings())
    given = read_labels(ids, grid, _settings(label_kind="instances"))
    assert given.count == 4 and np.array_equal(given.ids > 0, binary.ids > 0)


@pytest.mark.real
@real
def test_ten_experts_give_the_published_majority() -> None:
    with open_raster(next(_real().glob("raster/S2_*.tif"))) as scene:
        grid = scene.grid
    drawn: dict[str, np.ndarray] = {}
    paths = sorted(_real().glob("labels/*/*.shp"))
    labels = majority(paths, grid, _settings(), lambda path, expert: drawn.update({path.parent.name: expert.ids > 0}))
    published = read_labels(_real() / "masks/Bykovsky_S2_majority_binary255.tif", grid, _settings())
    assert len(drawn) == 10
    assert np.array_equal(labels.ids, published.ids)
    for name in ("expert_01", "expert_03", "expert_05"):
        raster = _real() / f"masks/Bykovsky_S2_{name}_instances.tif"
        theirs = read_labels(raster, grid, _settings(label_kind="instances"))
        assert np.array_equal(drawn[name], theirs.ids > 0)
