"""A small valid file of every format that the tasks read, how a command reads it, and what in it has a checksum."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geocore_trials.mutators import BLIND, TEXTS, Mutator, png_chunk, png_chunks, tiff_field

Reader = Callable[[Path], bytes]
"""Reads a file whole, as a command does; a digest of all values."""
Covered = Callable[[bytes], list[tuple[int, int]]]
"""Spans (start, end) of a valid file in which a checksum covers every byte."""
_PX: Final = 64


@dataclass(frozen=True, slots=True)
class Format:
    """One format and its two valid files."""

    name: str
    suffix: str
    make: Callable[[Path, int], None]
    """Writes the file; the number makes one of two."""
    read: Reader
    mutators: tuple[Mutator, ...] = BLIND
    covered: Covered | None = None
    """None: nothing in the format has a checksum that its library checks."""
    beside: tuple[str, ...] = ()
    """Endings of files that belong to it and are not mutated."""
    stem: str = "file"
    """Of its name, where readers want a certain one."""


def formats() -> dict[str, Format]:
    """All of them, by name."""
    found = [*_tiffs(), *_pictures(), *_scenes(), *_vectors(), *_texts(), *_kept()]
    return {each.name: each for each in found}


def _values(number: int, dtype: str = "uint16", count: int = 3) -> NDArray[Any]:
    rng = np.random.default_rng(number)
    smooth = np.add.outer(np.arange(_PX), np.arange(_PX))[None] * 2 + rng.integers(0, 3, (count, _PX, _PX))
    return smooth.astype(dtype)


def _write(
    path: Path, number: int, *, driver: str = "GTiff", dtype: str = "uint16", count: int = 3, **options: Any
) -> None:
    import rasterio
    from rasterio.transform import from_origin

    shape = {"width": _PX, "height": _PX, "count": count, "dtype": dtype}
    place = (
        {}
        if driver in ("PNG", "JPEG", "WEBP", "BMP")
        else {"crs": "EPSG:32633", "transform": from_origin(5e5, 7e6, 10, 10)}
    )
    if driver == "COG":
        with rasterio.MemoryFile() as memory:
            with memory.open(driver="GTiff", **shape, **place) as file:
                file.write(_values(number, dtype, count))
            with memory.open() as file:
                rasterio.shutil.copy(file, path, driver="COG", **options)
        return
    with rasterio.open(path, "w", driver=driver, **shape, **place, **options) as file:
        file.write(_values(number, dtype, count))


def _read_raster(path: Path) -> bytes:
    from geocore.raster.geotiff import open_raster
    from geocore.raster.grid import Window

    with open_raster(path) as scene:
        rows, cols = scene.grid.height, scene.grid.width
        digest = hashlib.sha256(f"{rows} {cols} {scene.grid.crs} {scene.grid.transform}".encode())
        # In windows, as training and mapping do; what claims to be huge is looked at in a few places.
        step = 48
        for row in _starts(rows, step):
            for col in _starts(cols, step):
                window = Window(row, col, min(step, rows - row), min(step, cols - col))
                for name, read in sorted(scene.read_layers(window).items()):
                    digest.update(name.encode() + read.values.tobytes() + read.valid.tobytes())
    return digest.digest()


def _starts(length: int, step: int) -> list[int]:
    return list(range(0, length, step)) if length <= 64 * step else [0, length // 2, length - step]


def _tiffs() -> list[Format]:
    own = (*BLIND, tiff_field, tiff_field, tiff_field)
    tiled = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    kinds: dict[str, dict[str, Any]] = {
        "tiff-strips": {},
        "tiff-tiles": tiled,
        "tiff-deflate": {"compress": "deflate", **tiled},
        "tiff-deflate-strips": {"compress": "deflate", "predictor": 2},
        "tiff-lzw": {"compress": "lzw", "predictor": 2},
        "tiff-zstd": {"compress": "zstd", **tiled},
        "tiff-lerc": {"compress": "lerc_zstd", **tiled},
        "tiff-jpeg": {"compress": "jpeg", "dtype": "uint8", **tiled},
        "tiff-webp": {"compress": "webp", "dtype": "uint8", **tiled},
        "tiff-float": {"dtype": "float32", "predictor": 3, "compress": "deflate", **tiled},
        "bigtiff": {"BIGTIFF": "YES", "compress": "deflate", **tiled},
        "cog": {"driver": "COG", "COMPRESS": "DEFLATE"},
    }
    return [Format(name, ".tif", _making(options), _read_raster, own) for name, options in kinds.items()]


def _pictures() -> list[Format]:
    kinds: dict[str, tuple[str, dict[str, Any], tuple[Mutator, ...], Covered | None]] = {
        "png": (".png", {"driver": "PNG", "dtype": "uint8"}, (*BLIND, png_chunk), _png_covered),
        "png-16": (".png", {"driver": "PNG"}, (*BLIND, png_chunk), _png_covered),
        "jpeg": (".jpg", {"driver": "JPEG", "dtype": "uint8"}, BLIND, None),
        "jp2": (".jp2", {"driver": "JP2OpenJPEG"}, BLIND, None),
        "webp": (".webp", {"driver": "WEBP", "dtype": "uint8"}, BLIND, None),
        "bmp": (".bmp", {"driver": "BMP", "dtype": "uint8"}, BLIND, None),
    }
    found = [
        Format(name, suffix, _making(options), _read_raster, own, covered)
        for name, (suffix, options, own, covered) in kinds.items()
    ]
    found.append(Format("png-palette", ".png", _make_palette, _read_raster, (*BLIND, png_chunk), _png_covered))
    found.append(Format("envi", ".hdr", _make_envi, _read_envi, (*BLIND, *TEXTS), beside=(".img",)))
    found.append(Format("vrt", ".vrt", _make_vrt, _read_raster, (*BLIND, *TEXTS), beside=(".source.tif",)))
    found.append(
        Format("band-list", ".yaml", _make_list, _read_list, (*BLIND, *TEXTS), beside=(".red.tif", ".nir.tif"))
    )
    return found


def _making(options: dict[str, Any]) -> Callable[[Path, int], None]:
    return lambda path, number: _write(path, number, **options)


def _png_covered(data: bytes) -> list[tuple[int, int]]:
    """Everything behind the signature but the lengths of chunks, which no checksum covers."""
    return [(start + 4, start + 12 + length) for start, length in png_chunks(data)]


def _make_palette(path: Path, number: int) -> None:
    """Colours of which one is transparent, and a grey picture's worth of numbers."""
    import rasterio

    colours = {index: (index * 20, 255 - index * 20, number) for index in range(8)}
    shape = {"width": _PX, "height": _PX, "count": 1, "dtype": "uint8", "nodata": 3}
    with rasterio.open(path, "w", driver="PNG", **shape) as file:
        file.write(_values(number, "uint8", 1) % 8)
        file.write_colormap(1, colours)


def _make_envi(path: Path, number: int) -> None:
    _write(path.with_suffix(".img"), number, driver="ENVI")


def _read_envi(path: Path) -> bytes:
    return _read_raster(path.with_suffix(".img"))


def _make_vrt(path: Path, number: int) -> None:
    import rasterio
    import rasterio.shutil

    source = path.with_suffix(".source.tif")
    _write(source, number)
    with rasterio.open(source) as file:
        rasterio.shutil.copy(file, path, driver="VRT")
    path.write_text(
        path.read_text().replace(str(source), source.name).replace('relativeToVRT="0"', 'relativeToVRT="1"')
    )


def _make_list(path: Path, number: int) -> None:
    lines = []
    for band in ("red", "nir"):
        _write(path.with_suffix(f".{band}.tif"), number, count=1)
        lines.append(f"  {band}: {{file: {path.stem}.{band}.tif, scale: 0.0001, offset: -0.1}}\n")
    path.write_text("bands:\n" + "".join(lines) + "reference: red\n")


def _read_list(path: Path) -> bytes:
    from geocore.errors import DataError
    from geocore.raster.products import granule_of
    from geocore.raster.stack import open_stack

    granule = granule_of(path)
    if granule is None:
        raise DataError("no list")
    with open_stack(granule.name, granule.files, reference=granule.reference) as scene:
        read = scene.read_layers(scene.grid.whole)["image"]
        return hashlib.sha256(read.values.tobytes() + read.valid.tobytes()).digest()


def _scenes() -> list[Format]:
    return [
        Format("netcdf-seaice", "_prep.nc", _make_ice, _read_ice),
        Format("netcdf-seaice-raw", "_prep.nc", _make_raw_ice, _read_ice),
        Format("netcdf-crops", ".nc", _make_patch, _read_patch, stem="2019_31TCG_patch_00_00"),
    ]


def _made(draw: Callable[[Path], None], pattern: str, path: Path) -> None:
    folder = path.with_name(f"{path.name}-drawn")
    draw(folder)
    shutil.move(min(folder.rglob(pattern)), path)
    shutil.rmtree(folder)


def _make_ice(path: Path, number: int) -> None:
    from seaice_multitask.sample import write_sample

    _made(lambda folder: write_sample(folder, seed=number, scenes=1, shape=(100, 100)), "*.nc", path)


def _make_raw_ice(path: Path, number: int) -> None:
    from seaice_multitask.sample import write_raw_sample

    _made(lambda folder: write_raw_sample(folder, seed=number, scenes=1, shape=(100, 100)), "*.nc", path)


def _read_ice(path: Path) -> bytes:
    from seaice_multitask.scenes import open_scene

    with open_scene(path) as scene:
        digest = hashlib.sha256(str(scene.grid.transform).encode())
        for name, read in sorted(scene.read_layers(scene.grid.whole).items()):
            digest.update(name.encode() + read.values.tobytes() + read.valid.tobytes())
        return digest.digest()


def _make_patch(path: Path, number: int) -> None:
    from crops_activesampling.sample import write_sample

    bands = ("B03", "B04", "B11")
    _made(lambda folder: write_sample(folder, seed=number, size=36, train=1, val=1, test=1, bands=bands), "*.nc", path)


def _read_patch(path: Path) -> bytes:
    from crops_activesampling.s4a_format import open_patch

    with open_patch(path) as patch:
        digest = hashlib.sha256(
            str(patch.grid.transform).encode() + patch.labels().tobytes() + patch.parcels().tobytes()
        )
        for band in patch.bands:
            values, times = patch.series(band)
            digest.update(band.encode() + values.tobytes() + times.tobytes())
        return digest.digest()


def _vectors() -> list[Format]:
    return [
        Format("gpkg", ".gpkg", _outlines_by("GPKG"), _read_outlines),
        Format("geojson", ".geojson", _outlines_by("GeoJSON"), _read_outlines, (*BLIND, *TEXTS)),
        Format(
            "shapefile", ".shp", _outlines_by("ESRI Shapefile"), _read_outlines, beside=(".shx", ".dbf", ".prj", ".cpg")
        ),
        Format("geoparquet", ".parquet", _outlines_by(None), _read_outlines),
    ]


def _outlines_by(driver: str | None) -> Callable[[Path, int], None]:
    def make(path: Path, number: int) -> None:
        import geopandas
        from shapely import box

        places = [(5e5 + 40 * k, 7e6 - 200 - 10 * number, 5e5 + 40 * k + 25, 7e6 - 100) for k in range(6)]
        table = geopandas.GeoDataFrame(
            {"kind": ["slump", "old"] * 3}, geometry=[box(*place) for place in places], crs="EPSG:32633"
        )
        if driver is None:
            table.to_parquet(path)
        else:
            table.to_file(path, driver=driver)

    return make


def _read_outlines(path: Path) -> bytes:
    from rasterio.transform import from_origin

    from geocore.raster.grid import Grid
    from geocore.vector.outlines import read_outlines

    grid = Grid(_PX, _PX, from_origin(5e5, 7e6, 10, 10), "EPSG:32633")
    found = read_outlines(path, grid)
    return hashlib.sha256(repr(found).encode()).digest()


def _texts() -> list[Format]:
    own = (*BLIND, *TEXTS, *TEXTS)
    return [
        Format("pairs-csv", ".csv", _make_pairs, _read_pairs, own),
        Format("split-list", ".csv", _make_split, _read_split, own),
        Format("dataset-yaml", ".yaml", _make_dataset, _read_dataset, own, lambda data: [(0, len(data))]),
        Format("settings-yaml", ".yaml", _make_settings, _read_settings, own),
        Format("settings-json", ".json", _make_json, _read_settings, own),
        Format("split-rules", ".yaml", _make_rules, _read_rules, own),
    ]


def _make_pairs(path: Path, number: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        writer.writerows([f"scene{k}.tif", f"scene{k}_instances.tif"] for k in range(number + 3))


def _read_pairs(path: Path) -> bytes:
    from slumps_detectron2.pairs import read_table

    return repr(read_table(path)).encode()


def _make_split(path: Path, number: int) -> None:
    path.write_text("".join(f"Ghana_{number}{k}_S1Hand.tif,Ghana_{number}{k}_LabelHand.tif\n" for k in range(5)))


def _read_split(path: Path) -> bytes:
    from floods_prithvi.split_lists import read_list

    return repr(read_list(path)).encode()


def _make_dataset(path: Path, number: int) -> None:
    from floods_prithvi.config import PrepareSettings
    from floods_prithvi.data import describe
    from floods_prithvi.sample import write_sample

    folder = path.parent / "raw"
    write_sample(folder, seed=number, size=64, counts={"train": 1, "valid": 1, "test": 1, "bolivia": 1})
    describe(PrepareSettings(data=folder, out=path.parent)).save(path.parent).rename(path)


def _read_dataset(path: Path) -> bytes:
    from geocore.datasets.schema import read_document

    return repr(read_document(path)).encode()


def _make_settings(path: Path, number: int) -> None:
    path.write_text(
        f"recipe: laptop\ntraining:\n  steps: {100 + number}\n  batch_size: 4\ntiling: {{size: 256, overlap: 64}}\n"
    )


def _make_json(path: Path, number: int) -> None:
    path.write_text(json.dumps({"recipe": "laptop", "training": {"steps": 100 + number}, "tiling": {"size": 256}}))


def _read_settings(path: Path) -> bytes:
    from floods_prithvi.config import TrainSettings
    from geocore.cli.main import load_settings

    words = ["--config", str(path), "--data", "d", "--run", "r"]
    return repr(load_settings(TrainSettings, words, prog="floods-train", recipes="floods_prithvi")).encode()


def _make_rules(path: Path, number: int) -> None:
    lines = [f"  - {{patch_x: {{max: {9 + number}}}, target: train}}", "  - {patch_x: {min: 10}, target: val}"]
    path.write_text("rules:\n" + "\n".join(lines) + "\n")


def _read_rules(path: Path) -> bytes:
    from crops_activesampling.rules import read_rules

    return repr(read_rules(str(path))).encode()


def _kept() -> list[Format]:
    whole: Covered = lambda data: [(0, len(data))]  # noqa: E731  # the hash of the file stands in another
    return [
        Format("npy-cache", ".npy", _make_array, _read_array, covered=whole, beside=(".entry",)),
        Format(
            "checkpoint-weights",
            ".safetensors",
            _make_checkpoint("model.safetensors"),
            _read_checkpoint("model.safetensors"),
            covered=whole,
            beside=(".run",),
        ),
        Format(
            "checkpoint-state",
            ".json",
            _make_checkpoint("state.json"),
            _read_checkpoint("state.json"),
            (*BLIND, *TEXTS),
            whole,
            (".run",),
        ),
        Format(
            "checkpoint-card",
            ".json",
            _make_checkpoint("card.json"),
            _read_checkpoint("card.json"),
            (*BLIND, *TEXTS),
            whole,
            (".run",),
        ),
        Format("weights-safetensors", ".safetensors", _make_weights, _read_weights),
        Format("weights-torch", ".pth", _make_weights, _read_weights),
        Format("weights-pickle", ".pkl", _make_weights, _read_weights),
        Format("run-json", ".json", _make_record, _read_record, (*BLIND, *TEXTS)),
        Format("metrics-jsonl", ".jsonl", _make_metrics, _read_metrics, (*BLIND, *TEXTS)),
    ]


def _make_array(path: Path, number: int) -> None:
    from geocore.raster.npy_store import write_cached

    folder = path.with_suffix(".entry")
    write_cached(folder, "key", {"values": _values(number)}, fingerprint="f")
    shutil.copy(folder / "key" / "values.npy", path)


def _read_array(path: Path) -> bytes:
    from geocore.raster.npy_store import read_cached

    folder = path.with_suffix(".entry")
    shutil.copy(path, folder / "key" / "values.npy")
    return read_cached(folder, "key", "values", fingerprint="f").tobytes()


def _make_checkpoint(name: str) -> Callable[[Path, int], None]:
    def make(path: Path, number: int) -> None:
        import torch

        from geocore.training.checkpoint import CheckpointState, save_checkpoint

        weight = torch.arange(64.0).reshape(8, 8) + number
        contents = CheckpointState(
            1, {"weight": weight}, None, {"lr": 0.1}, {}, ["{}"], {"step": 1}, {"bands": ["red"]}
        )
        saved = save_checkpoint(path.with_suffix(".run"), contents, best=True, keep=1)
        shutil.copy(saved / name, path)

    return make


def _read_checkpoint(name: str) -> Reader:
    def read(path: Path) -> bytes:
        from geocore.training.checkpoint import load_checkpoint

        folder = path.with_suffix(".run")
        shutil.copy(path, folder / "step-000001" / name)
        loaded = load_checkpoint(folder, "best", for_training=True)
        weights = loaded.model()
        told = repr((loaded.card, loaded.progress, sorted(weights), loaded.step)).encode()
        return told + b"".join(weights[name].numpy().tobytes() for name in sorted(weights))

    return read


def _make_weights(path: Path, number: int) -> None:
    import pickle

    import torch
    from safetensors.torch import save_file

    state = {"a.weight": torch.arange(48.0).reshape(6, 8) + number, "a.bias": torch.zeros(6)}
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".pth":
        torch.save({"state_dict": state, "meta": {"epoch": number}}, path)
    else:
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}))


def _read_weights(path: Path) -> bytes:
    from geocore.training.pretrained import load_foreign

    state = load_foreign(path)
    return b"".join(name.encode() + state[name].contiguous().numpy().tobytes() for name in sorted(state))


def _make_record(path: Path, number: int) -> None:
    calls = [{"started": "2026-01-01", "seconds": number, "scenes": {"a": {"percent": {"x": 1.5}}}, "failed": {}}]
    path.write_text(json.dumps({"calls": calls}, indent=1))


def _read_record(path: Path) -> bytes:
    from geocore.storage.records import read_calls

    folder = path.with_name(f"{path.name}-folder")
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / "run.json")
    return repr(read_calls(folder)).encode()


def _make_metrics(path: Path, number: int) -> None:
    lines = [{"step": k, "loss": 1.0 / (k + number + 1), "validation_f1": 0.5} for k in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _read_metrics(path: Path) -> bytes:
    from geocore.report.report import write_report

    folder = path.with_name(f"{path.name}-run")
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / "metrics.jsonl")
    write_report(folder)
    return (folder / "report.html").read_bytes()
