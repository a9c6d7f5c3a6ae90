"""Choosing samples: what is kept, resumed and counted, in one process and in two.

Run as a program, this file trains in processes that are killed, or under torchrun; see `main` at its end.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crops_activesampling.config import SelectionSettings, TrainSettings
from crops_activesampling.cost_meter import Metered
from crops_activesampling.loss import crop_loss
from crops_activesampling.selection import Chooser, Selecting
from crops_activesampling.train import selecting
from geocore.datasets.loader import Batches
from geocore.device import DeviceContext, device_context, seed_everything
from geocore.errors import RunError, TrainingError
from geocore.interruptions import Stopped
from geocore.settings import DeviceSettings, OptimizerSettings, TrainingSettings
from geocore.tiling.samplers import GridSampler, PatchIndex
from geocore.training.checkpoint import load_checkpoint
from geocore.training.fit import fit
from geocore.training.run import Run

CPU = DeviceContext(torch.device("cpu"), dedicated=True)
RESUMED = ("none", "random", "loss", "loss-train-mode", "entropy", "rho-loss")
"""One of each kind: without a selection, by chance, in either mode, by lot, with warm-up and hold-out losses."""
CHIPS, STEPS, PER_BLOCK = 40, 12, 3

STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {"scores": {}},
    "random": {"scores": {"random": 1.0}},
    "loss": {"scores": {"loss": 1.0}},
    "loss-train-mode": {"scores": {"loss": 1.0}, "mode": "train"},
    "correct-class-margin": {"scores": {"correct-class-margin": 1.0}},
    "margin": {"scores": {"margin": 1.0}},
    "entropy": {"scores": {"entropy": 1.0}, "pick": "boltzmann"},
    "irreducible": {"scores": {"irreducible": 1.0}, "holdout": "holdout"},
    "rho-loss": {"scores": {"rho-loss": 1.0}, "holdout": "holdout", "warmup_steps": 4},
    "sum": {"scores": {"loss": 1.0, "entropy": 0.5, "random": 0.1}},
}


class Network(nn.Module):
    """Stands for `CropNet`."""

    class_names = {1: "wheat", 2: "maize", 3: "rye"}

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(8, 3, 1)
        )

    def images(self, inputs: Any) -> Tensor:
        values: Tensor = inputs["medians"]["values"]
        return values

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return logits


def read(draw: PatchIndex) -> dict[str, Any]:
    """A window of two bands and three crops; every fifth has no label, every fourth has wrong ones."""
    random = torch.Generator().manual_seed(draw.sample)
    image = torch.randn(2, 6, 6, generator=random)
    label = (image[0] + 0.5 * image[1] > 0).to(torch.uint8) + (image[1] > 1).to(torch.uint8) + 1
    noisy = draw.sample % 4 == 0
    if noisy:
        label = 4 - label
    label[: draw.sample % 5] = 0
    if draw.sample % 5 == 0:
        label[:] = 0
    return {
        "inputs": {"medians": {"values": image}},
        "targets": {"crops": label},
        "keys": torch.tensor([draw.epoch, draw.index]),
        "index": torch.tensor(draw.sample),
        "noisy": noisy,
    }


def source(context: DeviceContext = CPU, *, threads: int = 0) -> Batches[Any]:
    return Batches(
        GridSampler([[None]] * CHIPS, seed=1),
        read,
        batch_size=4,
        rank=context.rank,
        world_size=context.world_size,
        threads=threads,
    )


def settings_of(
    strategy: str, *, accumulate: int = 1, log_every: int = 1, checkpoint_every: int = 100
) -> TrainSettings:
    return TrainSettings(
        selection=SelectionSettings(block=2, batches_per_block=PER_BLOCK, **STRATEGIES[strategy]),
        training=TrainingSettings(
            steps=STEPS,
            batch_size=4,
            accumulate=accumulate,
            validate_every=6,
            checkpoint_every=checkpoint_every,
            keep_last=20,
            log_every=log_every,
        ),
        optimizer=OptimizerSettings(learning_rate=0.01),
    )


def train(
    folder: Path,
    strategy: str,
    context: DeviceContext = CPU,
    *,
    on_step: Callable[[int], None] = lambda number: None,
    seen: list[list[int]] | None = None,
    candidates: list[int] | None = None,
    threads: int = 0,
    identity: str = "holdout",
    **changes: Any,
) -> Metered:
    """Train as `crops-train` does, on small fakes."""
    settings = settings_of(strategy, **changes)
    seed_everything(0)
    network: Any = Network()
    holdout: Any = SimpleNamespace(
        losses=torch.rand(CHIPS, generator=torch.Generator().manual_seed(5)), identity=identity
    )
    calls = [0]

    def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        calls[0] += 1
        on_step(calls[0])
        if seen is not None:
            seen.append(batch["index"].tolist())
        return {"crops": crop_loss(model(batch["inputs"]["medians"]["values"]), batch["targets"]["crops"])}

    def noted(draw: PatchIndex) -> dict[str, Any]:
        if candidates is not None:
            candidates.append(draw.sample)
        return read(draw)

    plain = source(context, threads=threads)
    plain._read = noted
    with Run.open(folder, settings=settings, data_hash="d", task="t", main=context.is_main) as run:
        known = holdout if settings.selection.holdout is not None else None
        inner = selecting(plain, settings, network, known, context, run) if settings.selection.scores else plain
        metered = Metered(inner, batch_size=4)

        def validate(model: nn.Module) -> dict[str, float]:
            with metered.paused():
                return {"f1_weighted": float(sum(value.double().sum() for value in model.parameters()))}

        fit(
            network,
            metered,
            step,
            validate,
            training=settings.training,
            optimizer=settings.optimizer,
            schedule=settings.schedule,
            context=context,
            run=run,
            card={},
            primary="f1_weighted",
        )
    return metered


def bits(folder: Path) -> dict[str, bytes]:
    """The bytes of weights and optimizer of the last checkpoint."""
    path = load_checkpoint(folder / "checkpoints", for_training=True).path
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.safetensors"))}


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Logged lines, without what the clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]


def kept_lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in metrics(folder) if any(name.startswith("kept") for name in line)]


# --- what is chosen


def scored(batch: dict[str, Any], uniform: Tensor) -> Tensor:
    """Higher for later windows; -1, of window 7, is no number."""
    index = batch["index"].double()
    return torch.where(index == 7, torch.nan, index)


def chooser(**changes: Any) -> Chooser:
    given: dict[str, Any] = {"score": scored, "block": 2, "batches_per_block": PER_BLOCK}
    return Chooser(**given | changes)


def taken(selection: Any, number: int) -> list[list[int]]:
    batches = iter(selection)
    return [next(batches)["index"].tolist() for _ in range(number)]


def joined(parts: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


def blocks(number: int, per_block: int = 2 * PER_BLOCK) -> list[list[int]]:
    """Windows of each block in the order in which the plain source gives them."""
    plain = taken(source(), number * per_block)
    return [joined(plain[per_block * block : per_block * (block + 1)]) for block in range(number)]


def test_the_best_of_each_block_come_in_their_order_in_batches_of_the_usual_size() -> None:
    found = taken(Selecting(source(), chooser(), context=CPU), 2 * PER_BLOCK)
    assert [len(batch) for batch in found] == [4] * (2 * PER_BLOCK)
    for block, handed in zip(blocks(2), (found[:PER_BLOCK], found[PER_BLOCK:]), strict=True):
        best = sorted((index for index in block if index != 7), reverse=True)[:12]
        least = min(best)
        assert joined(handed) == [index for index in block if index >= least and index != 7][:12]


def test_all_that_belongs_to_a_sample_moves_with_it() -> None:
    for batch, _ in zip(Selecting(source(), chooser(), context=CPU), range(4), strict=False):
        for row, index in enumerate(batch["index"].tolist()):
            item = read(PatchIndex(index, None, int(batch["keys"][row, 0]), int(batch["keys"][row, 1])))
            assert torch.equal(batch["inputs"]["medians"]["values"][row], item["inputs"]["medians"]["values"])
            assert torch.equal(batch["targets"]["crops"][row], item["targets"]["crops"])
            assert bool(batch["noisy"][row]) == item["noisy"]


def test_a_source_of_lists_is_taken_apart_sample_by_sample() -> None:
    class Ragged:
        def __iter__(self) -> Iterator[Any]:
            for number in range(0, 100, 2):
                keys = torch.tensor([[0, number], [0, number + 1]])
                yield {"keys": keys, "boxes": [f"of {number}", f"of {number + 1}"], "index": keys[:, 1]}

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: Any) -> None:
            pass

    first = next(iter(Selecting(Ragged(), chooser(batches_per_block=1, score=lambda b, u: -b["index"]), context=CPU)))
    assert first["boxes"] == ["of 0", "of 1"] and first["keys"].tolist() == [[0, 0], [0, 1]]


def test_a_sample_without_a_finite_score_is_never_handed_out_though_the_batch_is_full() -> None:
    few = chooser(score=lambda batch, uniform: torch.where(batch["index"] % 4 == 1, 1.0, torch.nan))
    found = taken(Selecting(source(), few, context=CPU), 4 * PER_BLOCK)
    assert all(len(batch) == 4 and all(index % 4 == 1 for index in batch) for batch in found)
    none = chooser(score=lambda batch, uniform: torch.full((4,), torch.nan))
    with pytest.raises(TrainingError, match="none of the 24 samples of a block has a finite score"):
        taken(Selecting(source(), none, context=CPU), 1)


def test_chance_is_decided_by_seed_epoch_and_index_and_shares_out_evenly() -> None:
    by_chance = {"score": lambda batch, uniform: uniform}
    runs = [taken(Selecting(source(), chooser(**by_chance, seed=seed), context=CPU), 200) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    counts = Counter(joined(runs[0]))
    # 800 of 1600 candidates, 40 windows with 40 draws each: 20 +- 3.2, within five of these.
    assert len(counts) == CHIPS and min(counts.values()) > 4 and max(counts.values()) < 36


def test_warm_up_is_chance_and_costs_no_forward_pass() -> None:
    warm = Selecting(source(), chooser(warmup_batches=2 * PER_BLOCK), context=CPU)
    chance = chooser(score=lambda batch, uniform: uniform)
    batches, by_chance = iter(warm), taken(Selecting(source(), chance, context=CPU), 2 * PER_BLOCK)
    assert [next(batches)["index"].tolist() for _ in range(2 * PER_BLOCK)] == by_chance
    assert warm.scored == 0
    next(batches)
    assert warm.scored == 24


def test_boltzmann_is_keyed_and_nearly_the_top_when_cold() -> None:
    def drawn(temperature: float, seed: int = 0) -> list[list[int]]:
        options = {"pick": "boltzmann", "temperature": temperature, "seed": seed}
        return taken(Selecting(source(), chooser(**options), context=CPU), 9)

    assert drawn(1e-6) == taken(Selecting(source(), chooser(), context=CPU), 9)
    assert drawn(1.0) == drawn(1.0) != drawn(1.0, seed=1)
    assert 7 not in joined(drawn(100.0))


# --- logs and costs


def test_shares_that_are_kept_are_logged_before_the_step_that_uses_them(tmp_path: Path) -> None:
    train(tmp_path, "loss", threads=2)
    lines = kept_lines(tmp_path)
    assert [line["step"] for line in lines] == [1, 4, 7, 10]
    assert set(lines[0]) == {"step", "kept_wheat", "kept_maize", "kept_rye", "kept_noisy"}
    assert all(0 <= line[name] <= 1 for line in lines for name in line if name != "step")


def test_logged_shares_are_those_of_what_was_handed_out() -> None:
    logged: list[dict[str, Any]] = []
    held = chooser(amounts=lambda batch: {"wheat": (batch["targets"]["crops"].flatten(1) == 1).sum(1)})
    selection = Selecting(source(), held, context=CPU, log_every_blocks=2,
                          log=lambda handed, shares: logged.append({"at": handed, **shares}))  # fmt: skip
    found = taken(selection, 4 * PER_BLOCK)

    def wheat(indices: list[int]) -> int:
        return sum(int((read(PatchIndex(index, None, 0, 0))["targets"]["crops"] == 1).sum()) for index in indices)

    offered = blocks(4)
    expected = [
        wheat(joined(found[start : start + 6])) / wheat(offered[block] + offered[block + 1])
        for start, block in ((0, 0), (6, 2))
    ]
    assert [line["at"] for line in logged] == [3, 9]
    assert [line["kept_wheat"] for line in logged] == pytest.approx(expected)


@pytest.mark.parametrize(("strategy", "forwards"), [("none", 144), ("random", 144), ("loss", 240), ("rho-loss", 192)])
def test_forwards_are_three_a_trained_and_one_a_scored_sample(strategy: str, forwards: int, tmp_path: Path) -> None:
    """12 steps of 4 samples; blocks of 24 candidates; rho-loss begins after the second block of its warm-up."""
    assert train(tmp_path, strategy).forwards == forwards


def test_the_clock_stands_still_during_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("crops_activesampling.cost_meter.time.monotonic", lambda: now[0])
    metered = Metered(source(), batch_size=4, forwards=10, seconds=5.0)
    batches = iter(metered)
    assert (metered.forwards, metered.seconds) == (10, 5.0)
    next(batches)
    now[0] += 2
    with metered.paused():
        now[0] += 50
    now[0] += 1
    assert (metered.forwards, metered.seconds, metered.handed) == (22, 8.0, 1)
    state = json.loads(json.dumps(metered.state_dict()))
    now[0] += 1000
    again = Metered(source(), batch_size=4)
    again.load_state_dict(state)
    now[0] += 7
    next(iter(again))
    now[0] += 1
    assert (again.forwards, again.seconds) == (34, 9.0)


def test_without_a_selection_batches_are_the_plain_ones(tmp_path: Path) -> None:
    seen: list[list[int]] = []
    train(tmp_path, "none", seen=seen)
    assert seen == taken(source(), STEPS)
    assert kept_lines(tmp_path) == []


# --- resuming


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each strategy trained in processes that were killed without warning, within a block and at its border."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "killed", str(folder)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("strategy", RESUMED)
def test_killed_and_resumed_runs_are_bit_equal(strategy: str, killed: Path) -> None:
    """CPU, one thread."""
    whole = killed / "whole" / strategy
    assert bits(killed / strategy) == bits(whole)
    assert metrics(killed / strategy) == metrics(whole)


def test_with_accumulation_too(killed: Path) -> None:
    whole = killed / "whole" / "accumulated"
    assert bits(killed / "accumulated") == bits(whole)
    assert metrics(killed / "accumulated") == metrics(whole)


def test_the_test_of_resuming_can_fail(killed: Path) -> None:
    """The kill came where it was meant to, and strategies differ."""
    assert json.loads((killed / "signals.json").read_text()) == [-signal.SIGKILL] * 2 * (len(RESUMED) + 1)
    trained = {strategy: bits(killed / strategy)["model.safetensors"] for strategy in RESUMED}
    assert len(set(trained.values())) == len(RESUMED)


def test_a_checkpoint_within_a_block_holds_what_was_chosen(killed: Path) -> None:
    folder = killed / "loss" / "checkpoints"
    for step, expected in ((4, (1, 12)), (6, (0, None))):
        _, state = load_checkpoint(folder, f"step-{step:06d}", for_training=True).training_state()
        selection = state["batches"]
        kept = selection["kept"]
        assert (selection["next"], None if kept is None else len(kept[0])) == expected
        assert selection["handed"] == step


def test_a_run_does_not_go_on_with_another_hold_out_model(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(
            tmp_path, "rho-loss", on_step=lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == 5 else None
        )
    with pytest.raises(RunError, match="scores came from holdout and now from other: give the hold-out model that"):
        train(tmp_path, "rho-loss", identity="other")


# --- two processes


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("distributed")
    with pytest.raises(Stopped):
        train(folder / "alone", "loss", on_step=stopping_at(5, 0, CPU))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, __file__, "distributed", str(folder)]
    # Outside the repository: each start of a run asks git for the commit, which takes longer than these trainings.
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_in_two_processes_with_disjoint_candidates(
    strategy: str, launched: tuple[Path, list[dict[str, Any]]]
) -> None:
    _, ranks = launched
    candidates = [rank[strategy]["candidates"] for rank in ranks]
    trained = [rank[strategy]["trained"] for rank in ranks]
    per_epoch = CHIPS // 2
    for start in range(0, len(candidates[0]), per_epoch):
        parts = [each[start : start + per_epoch] for each in candidates]
        assert len(set(parts[0] + parts[1])) == len(parts[0]) + len(parts[1])
    assert all(len(batch) == 2 for each in trained for batch in each)
    if strategy != "none":
        for each, offered in zip(trained, candidates, strict=True):
            for block in range(STEPS // PER_BLOCK):
                mine = set(offered[12 * block : 12 * (block + 1)])
                assert set(joined(each[PER_BLOCK * block : PER_BLOCK * (block + 1)])) <= mine
    first, second = (rank[strategy]["weights"] for rank in ranks)
    assert first == second and math.isfinite(first)


def test_two_processes_read_what_one_reads(launched: tuple[Path, list[dict[str, Any]]]) -> None:
    _, ranks = launched
    plain = taken(source(), 24)
    first, second = (rank["loss"]["candidates"] for rank in ranks)
    assert [first[at : at + 2] + second[at : at + 2] for at in range(0, 48, 2)] == plain


def test_no_process_hands_out_samples_without_labels(launched: tuple[Path, list[dict[str, Any]]]) -> None:
    for rank in launched[1]:
        assert all(index % 5 for batch in rank["rho-loss"]["trained"] for index in batch)
        assert any(index % 5 == 0 for batch in rank["none"]["trained"] for index in batch)


def test_a_stop_within_a_block_of_two_processes_is_resumed_bit_equal(
    launched: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, ranks = launched
    # Processes agree about signals at each tenth step; blocks are of 3.
    assert [rank["stopped_at"] for rank in ranks] == [10, 10]
    assert bits(folder / "stopped") == bits(folder / "loss")
    assert metrics(folder / "stopped") == metrics(folder / "loss")


def test_shares_are_those_of_both_processes(launched: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, ranks = launched
    handed = [joined(rank["loss"]["trained"][:PER_BLOCK]) for rank in ranks]
    offered = [rank["loss"]["candidates"][:12] for rank in ranks]
    noisy = [sum(index % 4 == 0 for index in joined(part)) for part in (handed, offered)]
    assert kept_lines(folder / "loss")[0]["kept_noisy"] == pytest.approx(noisy[0] / noisy[1])


def test_a_run_goes_on_with_another_number_of_processes(launched: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = launched
    assert load_checkpoint(folder / "alone" / "checkpoints").step == STEPS


def stopping_at(at: int, rank: int, context: DeviceContext) -> Callable[[int], None]:
    def on_step(number: int) -> None:
        if number == at and context.rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


def main_distributed(folder: Path) -> None:
    """What each process does; rank by rank its findings go to a file."""
    found: dict[str, Any] = {}
    with device_context(DeviceSettings(device="cpu", threads=1)) as context:
        assert context.world_size == 2
        for strategy in STRATEGIES:
            seen: list[list[int]] = []
            candidates: list[int] = []
            train(folder / strategy, strategy, context, seen=seen, candidates=candidates)
            context.barrier()
            state = load_checkpoint(folder / strategy / "checkpoints").model()
            found[strategy] = {
                "trained": seen,
                "candidates": candidates,
                "weights": float(sum(value.double().sum() for value in state.values())),
            }
        try:
            train(folder / "stopped", "loss", context, on_step=stopping_at(4, 1, context))
        except Stopped:
            found["stopped_at"] = load_checkpoint(folder / "stopped" / "checkpoints").step
        context.barrier()
        train(folder / "stopped", "loss", context)
        train(folder / "alone", "loss", context)
        (folder / f"rank{context.rank}.json").write_text(json.dumps(found))


def main_killed(folder: Path) -> None:
    """Train whole, and in forked processes of which the first two kill themselves."""
    torch.set_num_threads(1)
    statuses = []
    cases: list[tuple[str, str, dict[str, Any]]] = [(strategy, strategy, {}) for strategy in RESUMED]
    cases.append(("accumulated", "loss", {"accumulate": 2}))
    for name, strategy, changes in cases:
        train(folder / "whole" / name, strategy, log_every=2, **changes)
        per_step = changes.get("accumulate", 1)
        # Killed in step 6 after a checkpoint at 4, within a block, and in step 8 after one at 6, at the border of two.
        for every, steps in ((4, 5), (3, 3)):
            child = os.fork()
            if child == 0:
                options = {"checkpoint_every": every, "on_step": killing_at(steps * per_step + 1)}
                train(folder / name, strategy, log_every=2, **options, **changes)
                os._exit(0)
            statuses.append(os.waitpid(child, 0)[1])
        train(folder / name, strategy, log_every=2, **changes)
    (folder / "signals.json").write_text(json.dumps([-os.WTERMSIG(status) for status in statuses]))


def killing_at(at: int) -> Callable[[int], None]:
    return lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == at else None


if __name__ == "__main__":
    {"killed": main_killed, "distributed": main_distributed}[sys.argv[1]](Path(sys.argv[2]))
