import collections
import dataclasses
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import stat

import numpy as np
import pytest
import torch

from geocore.errors import CheckpointError, StorageError, WeightsError
from geocore.training.checkpoint import (
    CheckpointState,
    checkpoint_paths,
    has_checkpoints,
    load_checkpoint,
    rewind,
    save_checkpoint,
)
from geocore.training.pretrained import load_foreign, load_strictly


def contents(step, *, ema=False, size=4):
    generator = torch.Generator().manual_seed(step)
    weight = torch.rand(2, 3, 4, size, generator=generator)
    return CheckpointState(
        step=step,
        model={"weight": weight, "count": torch.tensor(step), "half": weight.bfloat16()},
        ema={"weight": weight / 2} if ema else None,
        optimizer={
            "state": {0: {"step": torch.tensor(float(step)), "exp_avg": weight * 3}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0], "fused": True, "foreach": None}],
        },
        source={"epoch": 2, "seen": np.arange(step % 7, dtype=np.int64), "nested": {"mask": torch.tensor([True])}},
        random=["{}"],
        progress={"step": step, "best_score": 0.1 + 0.2},
        card={"bands": ["B02"], "mean": [0.1]},
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert set(first) == set(second)
        for key in first:
            same(first[key], second[key])
    elif isinstance(first, list | tuple):
        for a, b in zip(first, second, strict=True):
            same(a, b)
    elif isinstance(first, torch.Tensor | np.ndarray):
        assert first.dtype == second.dtype and first.shape == second.shape
        assert bool((first == second).all())
    else:
        assert first == second


@pytest.mark.parametrize("ema", [False, True])
def test_everything_comes_back_bit_for_bit(tmp_path, ema):
    saved = contents(12, ema=ema)
    path = save_checkpoint(tmp_path, saved, best=True, keep=2)
    loaded = load_checkpoint(tmp_path, "best", for_training=True)
    assert loaded.path == path and path.name == "step-000012" and loaded.step == 12
    same(loaded.model(ema=False), dict(saved.model))
    same(loaded.model(), dict(saved.ema if ema else saved.model))
    assert loaded.averaged is ema
    optimizer, source = loaded.training_state()
    same(optimizer, dict(saved.optimizer))
    same(source, dict(saved.source))
    assert (loaded.progress, loaded.card, loaded.random) == (saved.progress, saved.card, saved.random)
    assert names(tmp_path) == ["best", "last", "step-000012"]
    assert (tmp_path / "last").read_text() == "step-000012"


def test_a_file_put_into_a_checkpoint_is_not_taken_for_its_weights(tmp_path):
    saved = contents(12)
    save_checkpoint(tmp_path / "own", saved, best=True, keep=1)
    save_checkpoint(tmp_path / "other", contents(13, ema=True), best=True, keep=1)
    shutil.copy(tmp_path / "other" / "step-000013" / "ema.safetensors", tmp_path / "own" / "step-000012")
    loaded = load_checkpoint(tmp_path / "own")
    assert not loaded.averaged
    same(loaded.model(), dict(saved.model))
    (loaded.path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No such file or directory: must be the file that was written"):
        loaded.model()


def test_tied_sliced_and_channels_last_weights_are_saved_whole(tmp_path):
    base = torch.rand(4, 3, 5, 5)
    weights = {
        "a": base,
        "tied": base,
        "slice": base[1:2],
        "empty": torch.zeros(0, 3),
        "channels_last": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    save_checkpoint(tmp_path, CheckpointState(1, weights, None, {}, {}, [], {}, {}), best=False, keep=1)
    same(load_checkpoint(tmp_path).model(), weights)


def test_files_can_be_read_by_whoever_may_read_the_others(tmp_path):
    path = save_checkpoint(tmp_path, contents(1), best=False, keep=1)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}
    probe = tmp_path / "probe"
    probe.touch()
    assert modes == {stat.S_IMODE(probe.stat().st_mode)}


def test_old_checkpoints_go_but_the_best_stays(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save_checkpoint(tmp_path, contents(step), best=step == 2, keep=2)
    assert names(tmp_path) == ["best", "last", "step-000002", "step-000004", "step-000005"]
    assert load_checkpoint(tmp_path, "best").step == 2
    assert load_checkpoint(tmp_path, "step-000004").step == 4
    save_checkpoint(tmp_path, contents(10**6), best=False, keep=1)
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-000002", "step-1000000"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, os.remove])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "card.json", "state.json"])
def test_damage_is_named_and_training_goes_on_from_the_newest_whole_one(tmp_path, caplog, damage, file):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, contents(step), best=step == 3, keep=3)
    damage(tmp_path / "step-000003" / file)
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(tmp_path, for_training=True).step == 2
    assert "step-000003 is damaged" in caplog.text and "going on from step-000002" in caplog.text
    rule = r"damaged \(.*take another one with --checkpoint \(step-000001, step-000002\)"
    with pytest.raises(CheckpointError, match=rule) as caught:
        load_checkpoint(tmp_path, "best", for_training=True)
    assert "\n" not in str(caught.value)
    if file == "optimizer.safetensors":
        assert load_checkpoint(tmp_path, "best").step == 3, "prediction does not need the optimizer"


def test_what_validation_chose_is_known_from_the_first_validation_on(tmp_path):
    for step, scores in ((1, {}), (2, {"threshold": 0.3})):
        made = dataclasses.replace(contents(step), progress={"scores": scores})
        save_checkpoint(tmp_path, made, best=False, keep=2)
    assert load_checkpoint(tmp_path, "step-000002").validated("threshold") == 0.3
    with pytest.raises(CheckpointError, match="before the first validation, .*: give --threshold, or another --check"):
        load_checkpoint(tmp_path, "step-000001").validated("threshold")


def test_what_an_earlier_validation_chose_is_told(tmp_path, caplog):
    for step in (2, 3):
        made = dataclasses.replace(contents(step), progress={"scores": {"threshold": 0.3}, "scored_step": 2})
        save_checkpoint(tmp_path, made, best=False, keep=2)
    assert load_checkpoint(tmp_path, "step-000002").validated("threshold") == 0.3 and not caplog.text
    assert load_checkpoint(tmp_path, "step-000003").validated("threshold") == 0.3
    assert "the threshold 0.3 was chosen by the validation of step 2, before the weights of step-000003" in caplog.text


@pytest.mark.parametrize("held", [None, "", "step-0000"])
def test_last_is_the_newest_where_a_killed_process_has_not_named_it(tmp_path, held):
    """Killed between the renaming of its first checkpoint and the writing of `last`, a run could never go on."""
    for step in (1, 2):
        save_checkpoint(tmp_path, contents(step), best=False, keep=2)
    (tmp_path / "last").unlink()
    if held is not None:
        (tmp_path / "last").write_text(held)
    assert load_checkpoint(tmp_path, for_training=True).step == 2
    (tmp_path / "step-000002" / "model.safetensors").write_bytes(b"")
    assert load_checkpoint(tmp_path, for_training=True).step == 1


def test_what_is_not_there_is_one_clear_line(tmp_path):
    assert not has_checkpoints(tmp_path / "none")
    with pytest.raises(CheckpointError, match="has no 'last' checkpoint: train first"):
        load_checkpoint(tmp_path / "none")
    path = save_checkpoint(tmp_path, contents(1), best=False, keep=1)
    for name in ("best", "step-000009"):
        with pytest.raises(
            CheckpointError, match=f"has no '{name}' checkpoint: take one of step-000001 with --checkpoint"
        ):
            load_checkpoint(tmp_path, name)
    truncate(path / "model.safetensors")
    assert has_checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="holds no whole one; train again in another folder"):
        load_checkpoint(tmp_path)
    (tmp_path / "last").write_text("../../etc")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)


def test_closed_folders_and_files_are_one_line(tmp_path, monkeypatch):
    def refuse(path, *arguments):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "w.pt").touch()
    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(CheckpointError, match="Permission denied: must be a readable folder"):
        load_checkpoint(tmp_path)
    monkeypatch.setattr("geocore.training.pretrained.check_regular", refuse)
    with pytest.raises(WeightsError, match="Permission denied: must be a readable file"):
        load_foreign(tmp_path / "w.pt")


def test_a_damaged_torch_file_is_not_told_to_be_read_without_protection(tmp_path):
    (tmp_path / "w.pt").write_bytes(bytes(range(50)))
    with pytest.raises(WeightsError, match="damaged or not a file of weights; get it again") as caught:
        load_foreign(tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value)


def test_rewind_restores_the_folder_of_an_earlier_step(tmp_path, killed_writer):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, contents(step), best=step in (1, 4), keep=4)
    for name in (f".part-{killed_writer}", f".old-{killed_writer}-step-000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    rewind(tmp_path, 3, 1)
    assert names(tmp_path) == ["best", "last", "step-000001", "step-000002", "step-000003"]
    assert (tmp_path / "last").read_text() == "step-000003"
    assert (tmp_path / "best").read_text() == "step-000001"
    rewind(tmp_path, 0, None)
    assert not has_checkpoints(tmp_path / "step") and checkpoint_paths(tmp_path) == []
    assert not (tmp_path / "best").exists()


def in_child(work):
    """Runs `work` in a forked process and returns what it returns, a short text, and how the process ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, str(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def failed_save(folder):
    try:
        save_checkpoint(folder, contents(2, size=1024), best=True, keep=1)
    except StorageError as error:
        return str(error)
    return "saved"


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    save_checkpoint(tmp_path, contents(1), best=True, keep=1)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        return failed_save(tmp_path)

    message, _ = in_child(limited)
    assert "step-000002: " in message and "larger than" in message and "\n" not in message
    assert names(tmp_path) == ["best", "last", "step-000001"]
    assert load_checkpoint(tmp_path, for_training=True).step == 1


@pytest.mark.parametrize("call", ["write_text", "save_file"])
def test_no_space_at_any_file_is_one_line(tmp_path, monkeypatch, call):
    save_checkpoint(tmp_path, contents(1), best=True, keep=1)
    calls = []

    def fail(*arguments, **options):
        calls.append(call)
        if call == "save_file":
            from safetensors import SafetensorError

            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise OSError(28, "No space left on device")

    target = "pathlib.Path.write_text" if call == "write_text" else "geocore.training.checkpoint.save_file"
    monkeypatch.setattr(target, fail)
    message = failed_save(tmp_path)
    monkeypatch.undo()
    assert calls and "no space left on the disk" in message and "\n" not in message
    assert names(tmp_path) == ["best", "last", "step-000001"]
    assert load_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize(
    "moment",
    [
        "geocore.training.checkpoint.sha256_json",
        "geocore.storage.files.os.replace",
        "geocore.storage.files.shutil.rmtree",
    ],
)
def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path, monkeypatch, moment):
    for step in (1, 2):
        save_checkpoint(tmp_path, contents(step), best=False, keep=2)

    def killed():
        monkeypatch.setattr(moment, lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL))
        save_checkpoint(tmp_path, contents(3), best=True, keep=1)

    _, code = in_child(killed)
    assert code == -signal.SIGKILL
    step = load_checkpoint(tmp_path, for_training=True).step
    assert step == (3 if "rmtree" in moment else 2)
    rewind(tmp_path, step, None)
    assert all(not name.startswith(".") for name in names(tmp_path))
    save_checkpoint(tmp_path, contents(3), best=True, keep=1)
    assert names(tmp_path) == ["best", "last", "step-000003"]


class Loaded:
    """Stands for a class of someone else's code."""

    created = False

    def __init__(self):
        self.value = 1

    def __setstate__(self, state):
        type(self).created = True


def test_foreign_weights_are_unwrapped(tmp_path):
    state = {"a.weight": torch.rand(2, 2), "a.bias": torch.rand(2)}
    prefixed = collections.OrderedDict((f"module.{name}", value) for name, value in state.items())
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": prefixed, "epoch": 3, "loss": np.float64(0.1)}, tmp_path / "wrapped.pth")
    torch.save({"model": state, "history": np.arange(3)}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    zoo = {"model": {name: value.numpy() for name, value in state.items()}, "__author__": "x", "matching": True}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(zoo, protocol=2))
    torch.save({"model": state, "scale": np.float32(2)}, tmp_path / "scalar.pt")
    for name in ("plain.pt", "wrapped.pth", "legacy.pt", "zoo.pkl", "scalar.pt"):
        loaded = load_foreign(tmp_path / name)
        assert set(loaded) == set(state), name
        for key, value in state.items():
            assert torch.equal(loaded[key], value)


@pytest.mark.parametrize("suffix", [".pt", ".pkl"])
def test_a_pickled_class_is_refused_by_name_and_never_created(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    content = {"model": {"a": torch.rand(2) if suffix == ".pt" else np.zeros(2)}, "extra": Loaded()}
    if suffix == ".pt":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"it wants to create \S*Loaded, which may run code") as caught:
        load_foreign(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not Loaded.created


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "boom"),))

    for name in ("bomb.pkl", "bomb.pt"):
        if name.endswith(".pt"):
            torch.save({"a": Bomb()}, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(pickle.dumps({"a": Bomb()}))
        with pytest.raises(WeightsError, match=r"posix\.mkdir|nt\.mkdir"):
            load_foreign(tmp_path / name)
    assert not (tmp_path / "boom").exists()


def test_the_log_history_of_mmengine_is_dropped(tmp_path, monkeypatch):
    import sys
    import types

    class HistoryBuffer:
        def __init__(self):
            self.values = np.arange(3.0)
            self.methods = {"mean": HistoryBuffer.mean}

        def mean(self):
            return 0

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    HistoryBuffer.mean.__module__ = "mmengine.logging.history_buffer"
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        module = types.ModuleType(name)
        module.HistoryBuffer = HistoryBuffer
        monkeypatch.setitem(sys.modules, name, module)
    path = tmp_path / "mm.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}, "message_hub": {"log": HistoryBuffer()}}, path)
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.delitem(sys.modules, name)
    assert load_foreign(path)["a"].tolist() == [1, 1]


def test_files_that_are_no_weights_are_one_line(tmp_path):
    good = tmp_path / "good.safetensors"
    save_checkpoint(tmp_path / "run", contents(1), best=False, keep=1)
    good.write_bytes((tmp_path / "run/step-000001/model.safetensors").read_bytes())
    assert set(load_foreign(good)) == {"weight", "count", "half"}
    truncate(good)
    torch.save({"a": torch.rand(1000)}, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:900])
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    (tmp_path / "empty.pkl").touch()
    (tmp_path / "names.pkl").write_bytes(pickle.dumps({"a": "b"}))
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    for name in ("good.safetensors", "cut.pt", "text.pt", "empty.pkl", "names.pkl", "tensor.pt", "absent.pt"):
        with pytest.raises(WeightsError, match=name) as caught:
            load_foreign(tmp_path / name)
        assert "\n" not in str(caught.value), name


def test_strict_loading_counts_and_names_what_does_not_fit(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {"0.weight": torch.rand(4, 5, 1, 1), "0.bias": torch.rand(4), "head.weight": torch.rand(1)}
    with pytest.raises(WeightsError) as caught:
        load_strictly(model, state, tmp_path / "w.pt")
    message = str(caught.value)
    assert "2 missing (1.weight, 1.bias)" in message
    assert "1 unexpected (head.weight)" in message
    assert "1 of another shape (0.weight (4, 5, 1, 1) for (4, 3, 1, 1))" in message
    same({**model.state_dict()}, before)
    load_strictly(model.to(memory_format=torch.channels_last), before, tmp_path / "w.pt")
    many = {f"extra{index}": torch.rand(1) for index in range(9)}
    with pytest.raises(WeightsError, match=r"9 unexpected \(extra0, extra1, extra2 and 6 more\)"):
        load_strictly(model, {**before, **many}, tmp_path / "w.pt")


def test_state_is_json_that_others_can_read(tmp_path):
    path = save_checkpoint(tmp_path, contents(5), best=False, keep=1)
    content = json.loads((path / "state.json").read_text())["content"]
    assert content["step"] == 5 and set(content["files"]) == {"card.json", "model.safetensors", "optimizer.safetensors"}
    assert json.loads((path / "card.json").read_text())["bands"] == ["B02"]
    with pytest.raises(TypeError, match=r"source\.bad is a set"):
        save_checkpoint(tmp_path, CheckpointState(6, {}, None, {}, {"bad": {1}}, [], {}, {}), best=False, keep=1)
