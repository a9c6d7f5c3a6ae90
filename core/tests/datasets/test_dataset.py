"""dataset.yaml: what is written reads back, what breaks a rule is named in one line, and the hash covers contents."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from geocore.datasets.dataset import Dataset, validate
from geocore.datasets.pairing import pair_by_suffix
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import RunningStatistics, Statistics
from geocore.errors import DataError
from geocore.raster.bands import Band, Bands
from geocore.raster.scene import Layer

BANDS = Bands((Band("red", "1", 1e-4, nodata=0.0), Band("u10", "m s-1"), Band("v10", "m s-1")), (("u10", "v10"),))
UNMARKED = Bands((Band("red", "1", 1e-4), *BANDS.bands[1:]), BANDS.vector_pairs)
LAYERS = {
    "image": Layer("image", BANDS, "uint16", times=("2020-01-01", "2020-02-01")),
    "weather": Layer("weather", Bands.named("t2m"), "float32", ratio=25),
}
LABELS = {"mask": LabelSpec("mask", {0: "background", 1: "schnee ❄"}, 255), "depth": LabelSpec("depth")}


def write_image(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    options = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype.name}
    with rasterio.open(path, "w", **options, crs="EPSG:32633", transform=(10, 0, 4e5, 0, -10, 5e6)) as file:
        file.write(values)


def make(root: Path, **changes: object) -> Dataset:
    """Two samples with real files; sample ids and dates are such that YAML would take them for something else."""
    rng = np.random.default_rng(0)
    samples = []
    for i, split in enumerate(("train", "test")):
        write_image(root / f"images/00{i}.tif", rng.integers(1, 900, (3, 30, 40), dtype=np.uint16))
        write_image(root / f"masks/00{i}_mask.tif", rng.integers(0, 2, (1, 30, 40), dtype=np.uint8))
        sample = Sample(
            id=f"00{i}",
            group=f"2020-01-0{i + 1}",
            split=split,
            inputs={"image": f"images/00{i}.tif"},
            labels={"mask": f"masks/00{i}_mask.tif"},
            attributes={"sun": 31.5, "note": "no", "count": 3, "night": False},
        )
        samples.append(sample.hashed(root))
    counts = RunningStatistics(LAYERS["weather"])
    counts.update(rng.random((1, 5, 5)).astype(np.float32), np.ones((1, 5, 5), bool))
    options = {
        "root": root,
        "task": "snow",
        "samples": samples,
        "layers": LAYERS,
        "labels": LABELS,
        "statistics": Statistics({"weather": counts.finish()}),
        "protocol": {"threshold": 0.5, "rule": "yes", "limit": None},
        "notes": ["made by hand"],
    }
    return Dataset(**(options | changes))  # type: ignore[arg-type]


NAMES = [
    *("yes", "no", "null", "~", "1e3", "0x1F", "012", "1_000", "2020-01-01", "12:30:00", ".inf", "- x", ": y", "#c"),
    *("&a", "*a", "!t", "%d", "@x", "`y`", "|", ">", "'q'", '"q"', " lead", "trail ", "a: b", "a #b", "{x}", "[x]"),
    *("a\nb", "a\tb", "\x1b[31m", "<b>", "$x$", "=1+1", "Fläche", "Fla\u0308che", "雪", "\u202e", "\x85", "\ufeff"),
    *("a\\b", "?", "---", "..."),
]


def test_names_that_yaml_would_take_for_something_else_are_text(tmp_path: Path) -> None:
    made = dataclasses.replace(make(tmp_path).samples[0], hashes={})
    samples = [
        dataclasses.replace(made, id=name, group=name, split=name, inputs={"image": f"images/{name}.tif"})
        for name in NAMES
    ]
    dataset = make(tmp_path, samples=samples)
    dataset.save()
    found = Dataset.load(tmp_path)
    assert [(sample.id, sample.group, sample.split) for sample in found.samples] == [(name,) * 3 for name in NAMES]
    assert [sample.inputs["image"] for sample in found.samples] == [f"images/{name}.tif" for name in NAMES]
    assert found.hash == dataset.hash


@pytest.mark.parametrize("change", [{"id": "a\udce4"}, {"group": "\udce4"}, {"inputs": {"image": "\udce4/a.tif"}}])
def test_names_of_bytes_that_are_no_text_are_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    sample = dataclasses.replace(make(tmp_path).samples[0], **change)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"called by bytes that are no UTF-8, which dataset.yaml cannot hold: rename"):
        make(tmp_path, samples=[sample])


def test_what_is_saved_reads_back(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    file = dataset.save()
    assert file == tmp_path / "dataset.yaml"
    for path in (tmp_path, file, str(tmp_path)):
        assert Dataset.load(path) == dataset
    assert Dataset.load(tmp_path).hash == dataset.hash
    text = file.read_text(encoding="utf-8")
    assert "schnee ❄" in text
    assert yaml.safe_load(text)["samples"][0]["id"] == "000"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_numpy_numbers_and_nan_are_written(tmp_path: Path) -> None:
    layers = {"image": Layer("image", Bands.named("a", nodata=float("nan")), "float32")}
    sample = Sample("a", "g", "train", {"image": "a.tif"}, attributes={"x": np.float32(0.5), "n": np.int64(3)})  # type: ignore[dict-item]
    dataset = Dataset(root=tmp_path, task="t", samples=[sample], layers=layers, protocol={"p": np.float64(2)})
    dataset.save()
    again = Dataset.load(tmp_path)
    assert np.isnan(again.layers["image"].bands["a"].nodata or 0)
    assert again.samples[0].attributes == {"x": 0.5, "n": 3}
    assert again.hash == dataset.hash


def test_a_moved_data_set_is_the_same(tmp_path: Path) -> None:
    dataset = make(tmp_path / "here")
    dataset.save()
    shutil.copytree(tmp_path / "here", tmp_path / "far" / "there")
    moved = Dataset.load(tmp_path / "far" / "there")
    assert moved.hash == dataset.hash
    assert validate(moved) == []
    # Saved elsewhere, the description refers to the files where they are.
    file = dataset.save(tmp_path / "elsewhere" / "deep")
    linked = Dataset.load(file)
    assert linked.samples[0].inputs == {"image": "../../here/images/000.tif"}
    assert validate(linked) == []
    assert linked.hash == dataset.hash


def test_the_hash_covers_contents_and_meaning_only(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    first, second = dataset.samples
    other_content = dataclasses.replace(first, hashes=first.hashes | {"images/000.tif": "0" * 64})
    changes = {
        "content": {"samples": [other_content, second]},
        "label content": {
            "samples": [dataclasses.replace(first, hashes=first.hashes | {"masks/000_mask.tif": "0" * 64}), second]
        },
        "split": {"samples": [dataclasses.replace(first, split="val"), second]},
        "group": {"samples": [dataclasses.replace(first, group="x"), second]},
        "attribute": {"samples": [dataclasses.replace(first, attributes={}), second]},
        "order": {"samples": [second, first]},
        "class": {"labels": LABELS | {"mask": LabelSpec("mask", {0: "background", 1: "ice"}, 255)}},
        "ignore": {"labels": LABELS | {"mask": LabelSpec("mask", LABELS["mask"].classes, None)}},
        "nodata": {
            "layers": LAYERS
            | {
                "image": dataclasses.replace(
                    LAYERS["image"], bands=Bands((Band("red", "1", 1e-4), *BANDS.bands[1:]), BANDS.vector_pairs)
                )
            }
        },
        "statistics": {"statistics": None},
        "protocol": {"protocol": {"threshold": 0.6}},
    }
    hashes = {name: dataclasses.replace(dataset, **change).hash for name, change in changes.items()}
    assert len({dataset.hash, *hashes.values()}) == len(changes) + 1
    renamed = dataclasses.replace(
        first,
        inputs={"image": "x/y.tif"},
        hashes={"x/y.tif": first.hashes["images/000.tif"], "masks/000_mask.tif": first.hashes["masks/000_mask.tif"]},
    )
    same = dataclasses.replace(dataset, samples=[renamed, second], notes=["other"], root=tmp_path / "other")
    assert same.hash == dataset.hash


def test_a_split_without_samples_names_the_others(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    assert [sample.id for sample in dataset.split("test")] == ["001"]
    with pytest.raises(DataError, match=r"split 'val' has no sample: .* holds train \(1\), test \(1\)"):
        dataset.split("val")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("samples"), "samples: Field required"),
        (lambda d: d.update(format=2), "format = 2: Input should be 1"),
        (lambda d: d.update(colour=1), "colour = 1: Extra inputs are not permitted"),
        (lambda d: d["samples"][1].pop("id"), "samples.1.id: Field required"),
        (lambda d: d["samples"][1].update(id=7), "samples.1.id = 7: Input should be a valid string"),
        (lambda d: d["samples"][0].update(splitt="x"), "samples.0.splitt = 'x'"),
        (lambda d: d["samples"][0]["inputs"].update(image="/data/a.tif"), "must be a path relative to the folder"),
        (lambda d: d["samples"][1].update(id="000"), "sample id '000' occurs 2 times"),
        (
            lambda d: d["samples"][0]["inputs"].update(dem="a.tif"),
            "has layer 'dem': the data set defines image, weather",
        ),
        (lambda d: d["samples"][0]["labels"].update(x="a.tif"), "has label 'x': the data set defines depth, mask"),
        (lambda d: d["layers"]["image"].update(dtype="uint17"), "dtype 'uint17'"),
        (lambda d: d["layers"]["image"].update(ratio=0), "layers.image.ratio = 0"),
        (lambda d: d["layers"]["image"]["bands"].append({"name": "red"}), "'red' occurs more than once"),
        (lambda d: d["layers"]["image"]["bands"].append({"title": "x"}), "bands cannot be read"),
        (lambda d: d["layers"]["image"]["bands"].append({"name": "x", "scale": 0}), "the scale not 0"),
        (lambda d: d["layers"]["image"]["bands"].append({"name": "x", "offset": float("nan")}), "must be finite"),
        (lambda d: d["labels"]["mask"]["classes"].update(snow="x"), "labels.mask.classes.snow"),
        (lambda d: d["statistics"]["weather"].append(d["statistics"]["weather"][0]), "cover 2 bands: the layer has 1"),
        (lambda d: d["statistics"]["weather"][0].pop("mean"), "band statistics"),
        (lambda d: d["statistics"].update(dem=[]), "statistics of layer 'dem'"),
        (lambda d: d["statistics"]["weather"][0].update(mean=float("nan")), "nan is not finite"),
        (lambda d: d["statistics"]["weather"][0].update(count=float("inf")), "cannot convert float infinity"),
        (lambda d: d["statistics"]["weather"][0]["percentiles"].update({"1": float("nan")}), "nan is not finite"),
        (lambda d: d["layers"]["image"].update(dtype="object"), "dtype 'object': must be a number"),
        (lambda d: d["layers"]["image"].update(dtype="f4,f4"), "dtype 'f4,f4': must be a number"),
        (lambda d: d["layers"]["weather"].update(bands=[]), "layers.weather.bands = []"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, change: object, words: str) -> None:
    file = make(tmp_path).save()
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(content)  # type: ignore[operator]
    file.write_text(yaml.safe_dump(content, sort_keys=True), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Dataset.load(tmp_path)
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(file))
    assert "\n" not in message


def test_what_is_not_yaml_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.yaml: not found.*prepare"):
        Dataset.load(tmp_path)
    file = tmp_path / "dataset.yaml"
    for content, words in [
        (b"a: 1\nb: [2", "line 2: did not find expected"),
        (b"- a", "holds a list: must be a mapping"),
        (b"", "is empty: must be a mapping"),
        (b"a:\n\tb: 1", "line 2, column 1: found character that cannot start any token"),
        (b"a: 2024-13-45", "month must be in 1..12: must be YAML"),
        (b"a: " + b"9" * 5000, "line 1: '999999999999999999999999999999999999... is a number of more than 64 bits"),
        (b"\xff\xfe\x00", "must be YAML"),
        (b"!!python/object/apply:os.system ['true']", "must be YAML"),
    ]:
        file.write_bytes(content)
        with pytest.raises(DataError, match="dataset.yaml") as caught:
            Dataset.load(tmp_path)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_dates_may_stand_without_quotes(tmp_path: Path) -> None:
    file = make(tmp_path).save()
    edited = file.read_text(encoding="utf-8").replace("'2020-02-01'", "2020-02-01")
    file.write_text(edited.partition("\n")[2], encoding="utf-8")
    assert Dataset.load(tmp_path).layers["image"].times == ("2020-01-01", "2020-02-01")


def test_what_is_not_what_was_written_is_refused_wherever_the_damage_lies(tmp_path: Path) -> None:
    file = make(tmp_path).save()
    whole = file.read_bytes()
    head = whole.index(b"\n") + 1
    assert Dataset.load(tmp_path).hash == make(tmp_path).hash
    damaged = [whole[: place // 2] for place in range(2 * head, 2 * len(whole), 61)]
    for place in range(head, len(whole), 7):
        damaged.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"dataset\.yaml: .*prepare the data again") as caught:
            Dataset.load(tmp_path)
        assert "\n" not in str(caught.value)


def test_whoever_edits_the_file_takes_its_hash_out(tmp_path: Path) -> None:
    file = make(tmp_path).save()
    edited = file.read_bytes().replace(b"split: train", b"split: val")
    file.write_bytes(edited)
    with pytest.raises(DataError, match="by damage or by hand: .* or take its first line out if you changed it"):
        Dataset.load(tmp_path)
    file.write_bytes(edited.partition(b"\n")[2].replace(b"\n", b"\r\n"))
    assert [sample.split for sample in Dataset.load(tmp_path).samples] == ["val", "test"]


def test_validate_finds_what_does_not_fit(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    assert validate(dataset) == []
    write_image(tmp_path / "masks/000_mask.tif", np.full((1, 29, 40), 7, np.uint8))
    problems = validate(dataset)
    assert problems == ["sample '000': masks/000_mask.tif: has changed since the data set was prepared"]
    rehashed = dataclasses.replace(dataset, samples=[sample.hashed(tmp_path) for sample in dataset.samples])
    assert validate(rehashed) == [
        "sample '000': label 'mask' holds 7: must be one of [0, 1] or the ignored value",
        "sample '000': sizes differ: layer 'image' 30 x 40, label 'mask' 29 x 40 (rows x columns); inputs and labels"
        " must cover the same pixels",
    ]
    assert [line.split(": ")[1] for line in validate(rehashed, contents=False)] == ["sizes differ"]
    (tmp_path / "images/001.tif").unlink()
    (tmp_path / "masks/000_mask.tif").write_text("no image")
    problems = validate(
        dataclasses.replace(dataset, samples=[dataclasses.replace(s, hashes={}) for s in dataset.samples])
    )
    assert "sample '001': images/001.tif: is missing" in problems
    assert any(line.startswith("sample '000': ") and "000_mask.tif" in line for line in problems)
    assert not any("\n" in line for line in problems)


def test_leaks_between_splits_are_found_but_equal_labels_are_fine(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    first, second = dataset.samples
    digest = first.hashes["images/000.tif"]
    same_label = dataclasses.replace(
        second, hashes=second.hashes | {"masks/001_mask.tif": first.hashes["masks/000_mask.tif"]}
    )
    assert dataclasses.replace(dataset, samples=[first, same_label]).leaks() == []
    copied = dataclasses.replace(second, hashes=second.hashes | {"images/001.tif": digest}, group=first.group)
    leaks = dataclasses.replace(dataset, samples=[first, copied]).leaks()
    assert leaks == [
        f"group {first.group!r} lies in 2 splits: test, train",
        f"identical input {digest[:12]} in several splits: 000 (train), 001 (test)",
    ]


def test_a_missing_file_cannot_be_hashed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sample 'a': .*gone\.tif: No such file"):
        Sample("a", "g", "train", {"image": "gone.tif"}).hashed(tmp_path)


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_pairs_go_by_name_not_by_order(tmp_path: Path) -> None:
    folder = touch(tmp_path, "b.jpg", "a.TIF", "a_mask.png", "b_mask.tif", "notes.txt", "._a.tif", "a.tif.aux.xml")
    pairs = pair_by_suffix(folder)
    assert [(pair.stem, pair.image.name, pair.label.name) for pair in pairs] == [
        ("a", "a.TIF", "a_mask.png"),
        ("b", "b.jpg", "b_mask.tif"),
    ]
    images, labels = touch(tmp_path / "images", "x_nir.tif", "y.tif"), touch(tmp_path / "masks", "x_mask.tif", "y.tif")
    pairs = pair_by_suffix(images, image_suffix="_nir", label_folder=labels)
    assert [(pair.stem, pair.image, pair.label) for pair in pairs] == [
        ("x", images / "x_nir.tif", labels / "x_mask.tif"),
        ("y", images / "y.tif", labels / "y.tif"),
    ]


def test_all_files_without_a_partner_are_listed(tmp_path: Path) -> None:
    folder = touch(
        tmp_path / "d", "a.tif", "b.tif", "c_mask.tif", "d.tif", "d.png", "d_mask.tif", "e.tif", "e_mask.tif"
    )
    with pytest.raises(DataError) as caught:
        pair_by_suffix(folder)
    message = str(caught.value)
    for name in ("a.tif (no partner)", "b.tif (no partner)", "c_mask.tif (no partner)", "d.png (several of this name)"):
        assert name in message
    assert "e.tif" not in message
    assert "\n" not in message
    with pytest.raises(DataError, match="no .tif"):
        pair_by_suffix(touch(tmp_path / "empty"))
    with pytest.raises(DataError, match="must be a readable folder"):
        pair_by_suffix(tmp_path / "gone")
