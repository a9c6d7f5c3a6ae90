"""Two processes against one. Run by torchrun, this file trains the cases of `CASES`; see `main` at its end."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from geocore.datasets.loader import Batches, stack
from geocore.device import DeviceContext, device_context
from geocore.errors import TrainingError
from geocore.interruptions import Stopped
from geocore.settings import DeviceSettings, OptimizerSettings, ScheduleSettings, Settings, TrainingSettings
from geocore.tiling.samplers import GridSampler
from geocore.training.checkpoint import load_checkpoint
from geocore.training.fit import fit
from geocore.training.losses import masked_cross_entropy
from geocore.training.run import Run

CPU = DeviceContext(torch.device("cpu"), dedicated=True)


class Example(Settings):
    training: TrainingSettings = TrainingSettings(steps=12, batch_size=4, validate_every=6, log_every=1)
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=0.01)
    schedule: ScheduleSettings = ScheduleSettings()


class Network(nn.Module):
    """A small network; `extra` adds a part that only some batches use."""

    def __init__(self, norm="group", dropout=0.0, extra=False):
        super().__init__()
        torch.manual_seed(0)
        normalized = {"group": nn.GroupNorm(2, 8), "batch": nn.BatchNorm2d(8), "plain": nn.BatchNorm2d(
            8, affine=False, momentum=None)}[norm]  # fmt: skip
        # A bias in front of a batch norm has no gradient but rounding, which AdamW scales up to whole steps.
        first = nn.Conv2d(2, 8, 3, padding=1, bias=norm == "group")
        self.body = nn.Sequential(first, normalized, nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Conv2d(8, 3, 1)
        if extra:
            self.extra = nn.Conv2d(8, 3, 1)

    def forward(self, image, with_extra=False):
        features = self.body(image)
        return self.head(features) + (self.extra(features) if with_extra else 0)


def read(draw):
    random = torch.Generator().manual_seed(draw.sample)
    image = torch.randn(2, 6, 6, generator=random)
    label = (image[0] + 0.5 * image[1] > 0).to(torch.uint8) + (image[1] > 1).to(torch.uint8)
    label[: draw.sample % 7] = 255
    valid = torch.rand(6, 6, generator=random) < 0.1 + 0.2 * (draw.sample % 4)
    return {"image": image, "label": label, "height": image.mean(0), "valid": valid, "sample": draw.sample,
            "index": draw.index}  # fmt: skip


def one_loss(model, batch):
    return {"classes": masked_cross_entropy(model(batch["image"]), batch["label"], 255)}


def two_losses(model, batch):
    logits = model(batch["image"])
    squares = torch.where(batch["valid"], (logits[:, 0] - batch["height"]) ** 2, 0.0)
    return {
        "classes": masked_cross_entropy(logits, batch["label"], 255),
        "height": (squares.sum(), batch["valid"].sum().float()),
    }


def half_empty(model, batch):
    """Nothing is valid in the first half of each global batch: a whole process has a count of 0."""
    label = torch.where(batch["index"].view(-1, 1, 1) % 4 < 2, 255, batch["label"])
    return one_loss(model, {**batch, "label": label})


def sometimes(model, batch):
    """The second half of each global batch goes through the extra part, which one process so leaves out."""
    extra = batch["index"] % 4 >= 2
    parts = [(model(batch["image"][where], used), batch["label"][where])
             for used, where in ((False, ~extra), (True, extra)) if bool(where.any())]  # fmt: skip
    losses = [masked_cross_entropy(logits, label, 255) for logits, label in parts]
    return {"classes": (sum(total for total, _ in losses), sum(count for _, count in losses))}


def accuracy(model):
    batch = stack([read(draw) for draw in GridSampler([[None]] * 8, seed=9, shuffle=False).epoch(0)])
    right = model(batch["image"]).argmax(1) == batch["label"]
    return {"accuracy": float(right[batch["label"] != 255].float().mean())}


def train(
    folder, context, step=one_loss, *, network=None, norm="group", seen=None, extra=False, drawn_apart=(), **changes
):
    settings = Example(training={**Example().training.model_dump(), **changes})

    def noted(model, batch):
        if seen is not None:
            seen.append(batch["sample"].tolist())
        return step(model, batch)

    options = {"rank": context.rank, "world_size": context.world_size, "threads": 0}
    batches = Batches(GridSampler([[None]] * 24, seed=1), read, batch_size=settings.training.batch_size, collate=stack,
                      **options)  # fmt: skip
    model = network or Network(norm, extra=extra)
    with Run.open(folder, settings=settings, data_hash="d", task="t", main=context.is_main) as run:
        result = fit(
            model,
            batches,
            noted,
            accuracy,
            training=settings.training,
            optimizer=settings.optimizer,
            schedule=settings.schedule,
            context=context,
            run=run,
            card={},
            primary="accuracy",
            find_unused_parameters=extra,
            drawn_apart=drawn_apart,
        )
    return result, model


CASES = {
    "one loss": {},
    "two losses": {"step": two_losses},
    "two losses accumulated": {"step": two_losses, "accumulate": 3},
    "one loss accumulated": {"accumulate": 2},
    "a process without valid pixels": {"step": half_empty},
    "running mean": {"step": two_losses, "ema_decay": 0.9},
    "batch norm": {"step": two_losses, "norm": "batch"},
    "batch norm accumulated": {"step": two_losses, "norm": "batch", "accumulate": 2},
    "batch norm of a process without valid pixels": {"step": half_empty, "norm": "batch"},
    "batch norm without weights": {"norm": "plain"},
    "unused": {"step": sometimes, "extra": True},
    "never used": {"extra": True},
    "never used accumulated": {"extra": True, "accumulate": 2},
    "unused accumulated": {"step": sometimes, "extra": True, "accumulate": 2},
}


def folder_of(case):
    return case.replace(" ", "-")


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    with pytest.raises(Stopped):
        train(folder / "resumed", CPU, killing(7, 0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def weights(folder, *, ema=False):
    state = load_checkpoint(folder / "checkpoints").model(ema=ema)
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_weights_of_one(launched, tmp_path, case):
    folder, _ = launched
    train(tmp_path, CPU, **CASES[case])
    ema = "ema_decay" in CASES[case]
    # Sums in another order, in 12 AdamW steps of up to 0.01: measured 6e-8 at most.
    assert float((weights(tmp_path, ema=ema) - weights(folder / folder_of(case), ema=ema)).abs().max()) < 1e-6
    assert losses(folder / folder_of(case)) == pytest.approx(losses(tmp_path), rel=1e-5)


def test_averaging_over_processes_would_not_pass(launched, tmp_path):
    """The mean of the processes' means, the usual mistake, is far outside the tolerance of the test above."""

    def mean_of_means(model, batch):
        parts = [one_loss(model, {key: value[half] for key, value in batch.items()})["classes"]
                 for half in (slice(0, 2), slice(2, 4))]  # fmt: skip
        return {"classes": (sum(total / count.clamp_min(1) for total, count in parts), torch.tensor(2.0))}

    train(tmp_path, CPU, mean_of_means)
    assert float((weights(tmp_path) - weights(launched[0] / "one-loss")).abs().max()) > 1e-3


def test_two_processes_read_the_sequence_of_one(launched, tmp_path):
    alone = []
    train(tmp_path, CPU, seen=alone)
    first, second = (rank["samples"] for rank in launched[1])
    assert [a + b for a, b in zip(first, second, strict=True)] == alone


def test_a_run_goes_on_with_another_number_of_processes(launched, tmp_path):
    train(tmp_path, CPU)
    assert float((weights(tmp_path) - weights(launched[0] / "resumed")).abs().max()) < 1e-6
    assert losses(launched[0] / "resumed") == pytest.approx(losses(tmp_path), rel=1e-5)


def test_a_signal_to_one_process_stops_all_and_resuming_is_bit_equal_with_dropout(launched):
    folder, ranks = launched
    assert [rank["stopped"] for rank in ranks] == [signal.SIGTERM, signal.SIGTERM]
    assert [rank["stopped_at"] for rank in ranks] == [10, 10]
    assert torch.equal(weights(folder / "stopped"), weights(folder / "dropout"))
    first, second = load_checkpoint(folder / "dropout" / "checkpoints").random
    assert first != second, "processes must not drop the same units"


def test_a_bad_loss_in_one_process_stops_all_with_the_same_line(launched):
    _, ranks = launched
    assert ranks[0]["not_finite"] == ranks[1]["not_finite"]
    assert "loss 'classes' is nan at step 3" in ranks[0]["not_finite"]


def test_processes_agree_on_what_is_validated(launched):
    folder, ranks = launched
    assert ranks[0]["batch_norm"] == ranks[1]["batch_norm"]
    assert all(math.isfinite(score) for score in ranks[0]["batch_norm"])
    state = load_checkpoint(folder / "validated" / "checkpoints").model()
    assert int(state["body.1.num_batches_tracked"]) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads from /proc")
def test_no_thread_of_the_group_is_left_to_abort_the_process_as_it_ends(launched):
    for rank in launched[1]:
        within, after = rank["threads_of_gloo"]
        assert within > 0
        assert after == 0


def test_what_processes_draw_apart_is_told_once(launched):
    _, ranks = launched
    line = "2 processes: each draws what dropout leaves out and proposals by itself, so that weights differ from those"
    assert [said.startswith(line) for said in ranks[0]["told"]] == [True]
    assert ranks[1]["told"] == []


def killing(at, rank_to_stop, rank=0):
    calls = [0]

    def step(model, batch):
        calls[0] += 1
        if calls[0] == at and rank == rank_to_stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_loss(model, batch)

    return step


@contextmanager
def listening():
    """What training says of several processes."""
    said = []
    logger, handler = logging.getLogger("geocore.training.fit"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield said
    logger.removeHandler(handler)


def gloo_threads():
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").glob("*")]
    return sum("gloo" in name for name in names)


def main(folder):
    """What each process does; rank by rank its findings go to a file."""
    found = {}
    with device_context(DeviceSettings(device="cpu", threads=1)) as context:
        assert context.world_size == 2
        for case, options in CASES.items():
            train(folder / folder_of(case), context, **options)
        found["samples"] = []
        train(folder / "samples", context, seen=found["samples"])
        train(folder / "resumed", context)

        with listening() as found["told"]:
            train(folder / "dropout", context, network=Network(dropout=0.4), steps=14, drawn_apart=["proposals"])
        step = killing(4, 1, context.rank)
        try:
            train(folder / "stopped", context, step, network=Network(dropout=0.4), steps=14)
        except Stopped as stopped:
            found["stopped"] = stopped.signum
        found["stopped_at"] = load_checkpoint(folder / "stopped" / "checkpoints").step
        context.barrier()
        train(folder / "stopped", context, network=Network(dropout=0.4), steps=14)

        calls = [0]

        def poisoned(model, batch):
            calls[0] += 1
            total, count = one_loss(model, batch)["classes"]
            return {"classes": (total * math.nan if calls[0] == 3 and context.rank == 1 else total, count)}

        try:
            train(folder / "poisoned", context, poisoned)
        except TrainingError as error:
            found["not_finite"] = str(error)

        scores = []

        def validate(model):
            scores.append(float(sum(buffer.double().sum() for buffer in model.buffers())))
            return {"accuracy": 0.5 + 0.1 * context.rank}

        global accuracy
        accuracy = validate
        train(folder / "validated", context, network=Network("batch"), ema_decay=0.9)
        found["batch_norm"] = scores
        found["threads_of_gloo"] = [gloo_threads()]
    found["threads_of_gloo"].append(gloo_threads())
    (folder / f"rank{context.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
