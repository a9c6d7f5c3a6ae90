"""Run as a program, this file trains in forked processes that are killed or stopped; see `main` at its end."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from geocore.cli.main import command
from geocore.datasets.loader import Batches, stack
from geocore.device import DeviceContext
from geocore.errors import CheckpointError, RunError, SettingsError, TrainingError
from geocore.interruptions import Stopped
from geocore.settings import OptimizerSettings, ScheduleSettings, Settings, TrainingSettings
from geocore.storage import files
from geocore.tiling.samplers import GridSampler
from geocore.training import checkpoint, gradients
from geocore.training.checkpoint import load_checkpoint
from geocore.training.fit import fit
from geocore.training.gradients import backward
from geocore.training.losses import masked_cross_entropy
from geocore.training.run import Run

CPU = DeviceContext(torch.device("cpu"), dedicated=True)
STEPS = 12


class Example(Settings):
    training: TrainingSettings = TrainingSettings(
        steps=STEPS,
        batch_size=4,
        validate_every=6,
        checkpoint_every=4,
        keep_last=2,
        log_every=3,
        ema_decay=0.9,
        patience=None,
    )
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=0.01)
    schedule: ScheduleSettings = ScheduleSettings(warmup_steps=2)


def network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(8, 3, 1)
    )


def read(draw):
    """A chip of two bands and three classes, of which a part that differs from chip to chip is ignored (255)."""
    random = torch.Generator().manual_seed(draw.sample)
    image = torch.randn(2, 6, 6, generator=random)
    label = (image[0] + 0.5 * image[1] > 0).to(torch.uint8) + (image[1] > 1).to(torch.uint8)
    label[: draw.sample % 6] = 255
    valid = torch.rand(6, 6, generator=random) < 0.1 + 0.2 * (draw.sample % 4)
    return {"image": image, "label": label, "height": image.mean(0), "valid": valid}


def source(batch_size=4, chips=19, **options):
    return Batches(GridSampler([[None]] * chips, seed=1), read, batch_size=batch_size, collate=stack, **options)


def one_loss(model, batch):
    return {"classes": masked_cross_entropy(model(batch["image"]), batch["label"], 255)}


def two_losses(model, batch):
    logits = model(batch["image"])
    squares = torch.where(batch["valid"], (logits[:, 0] - batch["height"]) ** 2, 0.0)
    return {
        "classes": masked_cross_entropy(logits, batch["label"], 255),
        "height": (squares.sum(), batch["valid"].sum().float()),
    }


def accuracy(model):
    batch = stack([read(draw) for draw in GridSampler([[None]] * 8, seed=9, shuffle=False).epoch(0)])
    right = model(batch["image"]).argmax(1) == batch["label"]
    return {"accuracy": float(right[batch["label"] != 255].float().mean())}


def train(folder, settings=None, *, model=None, batches=None, step=one_loss, validate=accuracy, context=CPU, **options):
    settings = settings or Example()
    model = model if model is not None else network(dropout=0.3)
    with Run.open(folder, settings=settings, data_hash="d", task="t") as run:
        result = fit(
            model,
            batches or source(settings.training.batch_size),
            step,
            validate,
            training=settings.training,
            optimizer=settings.optimizer,
            schedule=settings.schedule,
            context=context,
            run=run,
            card={"bands": ["a", "b"]},
            primary="accuracy",
            **options,
        )
    return result, model


def settings(**changes):
    """Example with other training settings; `optimizer` and `schedule` replace those groups."""
    groups = {key: changes.pop(key) for key in ("optimizer", "schedule") if key in changes}
    base = Example()
    return Example(training={**base.training.model_dump(), **changes}, **groups)


def metrics(folder):
    """Logged lines by step, without the pace."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]


def bits(folder, name="last"):
    """The bytes of every tensor file of a checkpoint."""
    path = load_checkpoint(folder / "checkpoints", name, for_training=True).path
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.safetensors"))}


# --- the loop


def test_a_run_learns_logs_and_keeps_last_and_best(tmp_path):
    result, model = train(tmp_path, settings(steps=60), model=network())
    assert result.steps == 60 and not result.stopped_early
    assert result.best_score == pytest.approx(max(line.get("validation_accuracy", 0) for line in metrics(tmp_path)))
    assert result.best_score > 0.65
    losses = [line["loss"] for line in metrics(tmp_path) if "loss" in line]
    assert losses[-1] < 0.7 * losses[0] and len(losses) == 20
    rates = [line["learning_rate"] for line in metrics(tmp_path) if "learning_rate" in line]
    assert max(rates) <= 0.01 and rates[-1] < 1e-4
    best = load_checkpoint(tmp_path / "checkpoints", "best")
    assert best.step == result.best_step and best.averaged
    assert best.card["bands"] == ["a", "b"] and best.card["data_hash"] == "d" and best.card["task"] == "t"
    scored = network()
    scored.load_state_dict(best.model())
    assert accuracy(scored.eval())["accuracy"] == pytest.approx(result.best_score), "best must be what was validated"
    last = load_checkpoint(tmp_path / "checkpoints", "last")
    for name, value in model.state_dict().items():
        assert torch.equal(value, last.model(ema=False)[name])
    with Run.open(tmp_path, settings=settings(steps=60), data_hash="d", task="t") as run:
        assert run.finished and run.summary["best_step"] == result.best_step


def test_validation_sees_the_running_mean_in_evaluation_mode_and_training_goes_on_unchanged(tmp_path):
    seen = []

    def validate(model):
        seen.append(({name: value.clone() for name, value in model.state_dict().items()}, model.training))
        assert not torch.is_grad_enabled()
        return {"accuracy": 0.5}

    _, model = train(tmp_path / "a", validate=validate)
    assert model.training and [training for _, training in seen] == [False, False]
    saved = load_checkpoint(tmp_path / "a" / "checkpoints").model(ema=True)
    assert all(torch.equal(seen[1][0][name], saved[name]) for name in saved)
    assert not torch.equal(seen[1][0]["0.weight"], model.state_dict()["0.weight"])
    train(tmp_path / "b", settings(validate_every=5))
    assert bits(tmp_path / "a") == bits(tmp_path / "b"), "how often is validated must not change the weights"


def test_the_running_mean_is_the_recurrence_of_its_definition(tmp_path):
    seen = []

    def step(model, batch):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return one_loss(model, batch)

    _, model = train(tmp_path, settings(steps=5), step=step)
    states = [*seen[1:], model.state_dict()]
    mean = seen[0]["0.weight"].double()
    for number, state in enumerate(states, start=1):
        decay = min(0.9, (1 + number) / (10 + number))
        mean = decay * mean + (1 - decay) * state["0.weight"].double()
    saved = load_checkpoint(tmp_path / "checkpoints").model(ema=True)["0.weight"]
    assert torch.allclose(saved.double(), mean, atol=1e-7)


def test_patience_ends_a_run_and_the_same_command_does_not_train_on(tmp_path):
    scores = iter([0.1, 0.5, 0.5, math.nan, 0.9])
    configured = settings(steps=100, validate_every=2, patience=2)
    result, _ = train(tmp_path, configured, validate=lambda model: {"accuracy": next(scores)})
    assert (result.steps, result.best_step, result.best_score, result.stopped_early) == (8, 6, 0.5, True)
    assert load_checkpoint(tmp_path / "checkpoints", "best").step == 6  # of equals the one that is trained longest
    again, _ = train(tmp_path, configured, validate=pytest.fail, step=None)
    assert (again.steps, again.best_step, again.stopped_early) == (8, 6, True)


def test_of_equal_scores_the_last_checkpoint_is_the_best_one_also_after_a_stop(tmp_path):
    scores = [0.0, 0.2, 0.2, 0.1, 0.2, 0.0]
    given = iter(scores)
    result, _ = train(tmp_path / "a", settings(validate_every=2), validate=lambda model: {"accuracy": next(given)})
    assert (result.best_step, result.best_score) == (10, 0.2)
    given = iter(scores)
    with pytest.raises(Stopped):
        train(
            tmp_path / "b",
            settings(validate_every=2),
            step=stopping(7),
            validate=lambda model: {"accuracy": next(given)},
        )
    assert load_checkpoint(tmp_path / "b" / "checkpoints", "best").step == 6
    again, _ = train(tmp_path / "b", settings(validate_every=2), validate=lambda model: {"accuracy": next(given)})
    assert again == result and bits(tmp_path / "b", "best") == bits(tmp_path / "a", "best")


def test_a_run_whose_score_is_never_a_number_ends_with_its_last_checkpoint_as_the_best(tmp_path, caplog):
    nothing = {"accuracy": math.nan}
    result, _ = train(tmp_path, validate=lambda model: nothing)
    assert (result.best_step, result.best_score) == (STEPS, None)
    assert load_checkpoint(tmp_path / "checkpoints", "best").step == STEPS
    assert [record.message for record in caplog.records if record.name == "geocore.training.fit"] == [
        "accuracy was no number at any validation: the last checkpoint is the best one"
    ]
    # Killed between its last checkpoint and the summary, it ends in the same way.
    (tmp_path / "finished.json").unlink()
    again, _ = train(tmp_path, validate=None, step=None)
    assert (again.best_step, again.best_score) == (STEPS, None)
    assert load_checkpoint(tmp_path / "checkpoints", "best").step == STEPS


def test_the_last_checkpoint_is_the_best_where_that_is_asked_for(tmp_path):
    scores = iter([0.9, 0.1])
    result, _ = train(tmp_path, settings(choose="last"), validate=lambda model: {"accuracy": next(scores)})
    assert (result.best_step, result.best_score) == (STEPS, 0.1)
    assert load_checkpoint(tmp_path / "checkpoints", "best").step == STEPS
    with pytest.raises(ValidationError, match="patience 3 with choose last"):
        settings(choose="last", patience=3)


def test_sgd_is_the_recurrence_of_its_definition(tmp_path):
    """velocity = momentum velocity + gradient + decay weights; weights -= rate velocity. CPU, float32, one thread."""
    rate, momentum, decay, steps = 0.05, 0.8, 0.1, 5
    chosen = {"name": "sgd", "learning_rate": rate, "momentum": momentum, "weight_decay": decay, "clip_norm": None}
    seen = []

    def step(model, batch):
        seen.append(batch)
        return one_loss(model, batch)

    model = network()
    train(
        tmp_path,
        settings(steps=steps, optimizer=chosen, schedule={"kind": "constant", "warmup_steps": 0}),
        model=model,
        step=step,
    )
    other = network()
    velocity = [torch.zeros_like(value) for value in other.parameters()]
    for batch in seen[:steps]:
        ((total, count),) = one_loss(other.train(), batch).values()
        gradients = torch.autograd.grad(total / count, list(other.parameters()))
        with torch.no_grad():
            for weights, gradient, speed in zip(other.parameters(), gradients, velocity, strict=True):
                speed.mul_(momentum).add_(gradient + decay * weights)
                weights -= rate * speed
    for name, value in other.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), value, rtol=1e-5, atol=1e-6)


def test_parameter_groups_keep_their_own_rate_and_frozen_parts_stay(tmp_path):
    model = network()
    model[0].requires_grad_(False)
    groups = [
        {"params": list(model[1].parameters()), "lr": 0.0, "weight_decay": 0.0},
        {"params": model[4].parameters()},
    ]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(tmp_path, model=model, parameter_groups=groups)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"4.weight", "4.bias"}


def test_a_step_and_a_validation_have_to_keep_their_contract(tmp_path):
    with pytest.raises(ValueError, match=r"without the primary score 'accuracy'"):
        train(tmp_path / "a", settings(validate_every=1), validate=lambda model: {"iou": 1.0})
    with pytest.raises(SettingsError, match="warmup_steps"):
        train(tmp_path / "b", settings(schedule={"warmup_steps": 99}))


def test_bfloat16_runs(tmp_path):
    kinds = []

    def step(model, batch):
        losses = one_loss(model, batch)
        kinds.append(model(batch["image"]).dtype)
        return losses

    train(tmp_path, settings(steps=3), step=step, context=DeviceContext(torch.device("cpu"), precision="bfloat16"))
    assert kinds[0] is torch.bfloat16
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path) if "loss" in line)


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_and_weights_are_laid_out_together(tmp_path, channels_last):
    seen = []

    def step(model, batch):
        seen.append(batch["image"].is_contiguous(memory_format=torch.channels_last))
        return two_losses(model, batch)

    class Dated(nn.Module):
        """Weights of five axes, of which there is no such layout, before those of four."""

        def __init__(self):
            super().__init__()
            self.dates, self.image = nn.Conv3d(2, 2, 1), network()

        def forward(self, image):
            return self.image(self.dates(image[:, :, None])[:, :, 0])

    model = Dated()
    context = DeviceContext(torch.device("cpu"), channels_last=channels_last)
    train(tmp_path, settings(steps=3), model=model, step=step, context=context)
    assert set(seen) == {channels_last}
    assert model.image[0].weight.is_contiguous(memory_format=torch.channels_last) == channels_last


# --- gradients


def gradient(step, batch_size, accumulate, first=0):
    model = network()
    batches = itertools.islice(source(batch_size, threads=0), first, None)
    losses = backward(model, step, batches, accumulate=accumulate, context=CPU)
    return [parameter.grad for parameter in model.parameters()], losses


@pytest.mark.parametrize("step", [one_loss, two_losses])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_micro_batches_give_the_gradient_of_one_batch(step, accumulate):
    whole, losses = gradient(step, 8, 1)
    parts, same_losses = gradient(step, 8 // accumulate, accumulate)
    assert list(losses) == list(same_losses)
    # Sums of 288 pixels in another order: measured 2.5e-7 of the largest gradient, two roundings.
    largest = max(float(value.abs().max()) for value in whole)
    for one, other in zip(whole, parts, strict=True):
        assert float((one - other).abs().max()) <= 1e-6 * largest
    assert all(float(losses[name]) == pytest.approx(float(same_losses[name]), rel=1e-6) for name in losses)


def test_the_loss_is_the_sum_of_quotients_of_global_sums_and_counts():
    model = network()
    parts = [two_losses(model, batch) for batch in itertools.islice(source(2, threads=0), 3)]
    assert len({float(part["classes"][1]) for part in parts}) > 1, "the counts must differ for this to be a test"
    total = sum(
        sum(part[name][0] for part in parts) / sum(part[name][1] for part in parts) for name in ("classes", "height")
    )
    expected = torch.autograd.grad(total, list(model.parameters()))
    given, losses = gradient(two_losses, 2, 3)
    assert float(sum(losses.values())) == pytest.approx(float(total.detach()), rel=1e-6)
    for one, other in zip(given, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_accumulation_trains_like_the_large_batch(tmp_path):
    def trained(name, batch_size, accumulate):
        configured = settings(batch_size=batch_size, accumulate=accumulate, ema_decay=None)
        _, model = train(tmp_path / name, configured, model=network(), batches=source(batch_size, chips=24),
                         step=two_losses)  # fmt: skip
        return nn.utils.parameters_to_vector(model.parameters()).detach()

    whole, parts = trained("whole", 8, 1), trained("parts", 2, 4)
    # AdamW divides by the gradient's own size and so enlarges rounding: measured 1.2e-7 after 12 steps of 0.01.
    assert float((whole - parts).abs().max()) < 1e-6
    naive = trained("naive", 2, 1)
    assert float((whole - naive).abs().max()) > 1e-3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_without_any_valid_pixel_contributes_nothing(tmp_path, accumulate):
    def empty(model, batch):
        losses = two_losses(model, {**batch, "label": torch.full_like(batch["label"], 255)})
        return losses if empty.both else {"classes": losses["classes"]}

    empty.both = False
    model = network()
    losses = backward(model, empty, iter(source(threads=0)), accumulate=accumulate, context=CPU)
    assert losses == {"classes": 0.0}
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in model.parameters())
    empty.both = True
    result, model = train(tmp_path, settings(accumulate=accumulate), model=network(), step=empty)
    assert result.steps == STEPS
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    assert metrics(tmp_path)[0]["loss_classes"] == 0 and metrics(tmp_path)[0]["loss_height"] > 0


def test_micro_batches_must_name_the_same_losses():
    names = iter(["a", "b"])
    with pytest.raises(ValueError, match="micro-batches differ"):
        backward(
            network(),
            lambda model, batch: {next(names): one_loss(model, batch)["classes"]},
            iter(source(threads=0)),
            accumulate=2,
            context=CPU,
        )


# --- errors


def poisoned(at, what):
    calls = itertools.count(1)

    def step(model, batch):
        losses = two_losses(model, batch)
        if next(calls) == at:
            if isinstance(what, Exception):
                raise what
            losses["height"] = (losses["height"][0] * what, losses["height"][1])
        return losses

    return step


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_it_touches_the_weights(tmp_path, monkeypatch, on_device, value):
    # The kernel's own check, meant for accelerators, also works on a CPU.
    monkeypatch.setattr("geocore.training.fit.skips_on_device", lambda optimizer, context: on_device)
    model, calm = network(), network()
    with pytest.raises(TrainingError, match=r"loss 'height' is (nan|inf) at step 6: it must be finite") as caught:
        train(tmp_path / "a", settings(log_every=6), model=model, step=poisoned(6, value))
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path / "a" / "checkpoints", for_training=True).step == 4
    train(
        tmp_path / "b", settings(steps=5, schedule={"kind": "constant", "warmup_steps": 0}), model=calm, step=two_losses
    )
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    # The same command with sane data goes on from there.
    result, _ = train(tmp_path / "a", settings(log_every=6), model=network(), step=two_losses)
    assert result.steps == STEPS


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_skipped_on_the_device_leaves_weights_and_moments_as_they_were(tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr("geocore.training.fit.skips_on_device", lambda optimizer, context: True)
    model = network()
    states = []
    bad = poisoned(4, math.nan)

    def step(model, batch):
        states.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        return bad(model, batch)

    with pytest.raises(TrainingError, match="at step 4"):
        chosen = settings(log_every=6, checkpoint_every=100, optimizer={"name": optimizer, "learning_rate": 0.01})
        train(tmp_path, chosen, model=model, step=step)
    assert len(states) == 6, "the loop runs on until losses are read"
    assert not torch.equal(states[2], states[3])
    assert torch.equal(states[3], states[4])
    assert bool(torch.isfinite(states[5]).all())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), MemoryError()]
)
def test_no_memory_left_is_one_line_that_names_batch_and_accumulation(tmp_path, error):
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, settings(accumulate=2), step=poisoned(3, error))
    message = str(caught.value)
    assert "training.batch_size = 4" in message and "training.accumulate = 2" in message and "\n" not in message


def test_other_errors_of_a_step_are_left_alone(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"):
        train(tmp_path, step=poisoned(3, RuntimeError("shapes differ")))


# --- stop and resume


def stopping(at, number=signal.SIGTERM):
    calls = itertools.count(1)

    def step(model, batch):
        if next(calls) == at:
            os.kill(os.getpid(), number)
        return one_loss(model, batch)

    return step


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_same_command_ends_bit_equal(tmp_path, number, channels_last, optimizer):
    context = DeviceContext(torch.device("cpu"), channels_last=channels_last, dedicated=True)
    before = signal.getsignal(number)
    chosen = settings(optimizer={"name": optimizer, "learning_rate": 0.01})
    train(tmp_path / "whole", chosen, context=context)
    with pytest.raises(Stopped) as caught:
        train(tmp_path / "cut", chosen, step=stopping(5, number), context=context)
    assert caught.value.signum == number
    assert signal.getsignal(number) is before
    assert load_checkpoint(tmp_path / "cut" / "checkpoints").step == 5
    torch.rand(7)
    train(tmp_path / "cut", chosen, context=context)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
    assert (tmp_path / "cut/checkpoints/best").read_text() == (tmp_path / "whole/checkpoints/best").read_text()


@pytest.mark.parametrize(("apart_s", "error"), [(0.0, Stopped), (0.1, KeyboardInterrupt)])
def test_a_second_wish_acts_at_once_and_two_signals_together_are_one(tmp_path, monkeypatch, apart_s, error):
    monkeypatch.setattr("geocore.training.fit.REPEAT_S", 0.05)

    def step(model, batch):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(apart_s)
        os.kill(os.getpid(), signal.SIGINT)
        return one_loss(model, batch)

    with pytest.raises(error):
        train(tmp_path, step=step)
    assert (tmp_path / "checkpoints/last").exists() == (error is Stopped)


def test_a_run_of_other_settings_is_refused_and_operational_ones_may_change(tmp_path):
    train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "cut", step=stopping(5))
    with pytest.raises(RunError, match=r"training\.seed = 0 there, 3 now"):
        train(tmp_path / "cut", settings(seed=3))
    train(tmp_path / "cut", settings(log_every=1, checkpoint_every=100, keep_last=5))
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_resume_falls_back_when_last_is_damaged_and_refuses_when_all_are(tmp_path):
    train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "cut", step=stopping(6))
    folder = tmp_path / "cut" / "checkpoints"
    assert (folder / "best").read_text() == "step-000006"
    (folder / "step-000006" / "optimizer.safetensors").write_bytes(b"")
    train(tmp_path / "cut")
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
    for path in folder.glob("step-*/state.json"):
        path.write_text("{")
    with pytest.raises(CheckpointError, match="holds no whole one"):
        train(tmp_path / "cut")


def test_a_lost_best_checkpoint_is_found_anew(tmp_path):
    scores = iter([0.9, 0.2, 0.1, 0.3, 0.3, 0.3])
    with pytest.raises(Stopped):
        train(
            tmp_path,
            settings(validate_every=1),
            step=stopping(3),
            validate=lambda model: {"accuracy": next(scores)},
        )
    for file in (tmp_path / "checkpoints" / "step-000001").iterdir():
        file.unlink()
    (tmp_path / "checkpoints" / "step-000001").rmdir()
    result, _ = train(tmp_path, settings(validate_every=1), validate=lambda model: {"accuracy": next(scores, 0.3)})
    assert (result.best_score, result.best_step) == (0.3, STEPS)


# --- processes that are killed: one program forks them all, so that torch is loaded once


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "codes.json").read_text())


MOMENTS = [
    "before the first checkpoint",
    "in a step",
    "between two files of a checkpoint",
    "before the checkpoint gets its name",
    "before last points at it",
    "before best points at it",
    "while an old checkpoint is removed",
    "in the last checkpoint",
    "twice",
    "from outside",
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_ends_bit_equal_to_the_uninterrupted_one(killed, moment):
    folder, codes = killed
    assert codes[moment][:-1] == [-signal.SIGKILL] * (2 if moment == "twice" else 1) and codes[moment][-1] == 0
    run, whole = folder / moment.replace(" ", "-"), folder / "whole"
    assert bits(run) == bits(whole)
    assert bits(run, "best") == bits(whole, "best")
    assert metrics(run) == metrics(whole)
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {path.name for path in (whole / "checkpoints").iterdir()}


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_command_that_is_stopped_saves_and_says_so_in_its_exit_code(killed, name, code):
    folder, codes = killed
    assert codes[name] == [code, 0]
    assert bits(folder / name) == bits(folder / "whole")


class Killer:
    """Ends its own process as `kill -9` does, at the n-th call of something."""

    def __init__(self, owner, attribute, n=1, *, after=False):
        self.owner, self.attribute, self.n, self.after = owner, attribute, n, after
        self.calls = 0

    def __enter__(self):
        self.original = getattr(self.owner, self.attribute)
        setattr(self.owner, self.attribute, self)

    def __exit__(self, *error):
        setattr(self.owner, self.attribute, self.original)

    def __call__(self, *arguments, **options):
        self.calls += 1
        if self.calls == self.n and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = self.original(*arguments, **options)
        if self.calls == self.n:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def child(work):
    """Forks a process that does `work`; returns its process number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except SystemExit as error:
        code = error.code
    finally:
        os._exit(code)


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder):
    """Trains in processes that are killed at given moments and started again; writes how each of them ended."""
    torch.set_num_threads(1)
    # The first use of an optimizer loads much of torch: once here instead of in each child.
    train(folder / "warm", settings(steps=3), batches=source(threads=0))
    # Checkpoints are saved at steps 4, 6 (validation), 8 and 12; each has three tensor files.
    killers = {
        "before the first checkpoint": [Killer(gradients, "to_device", 3)],
        "in a step": [Killer(gradients, "to_device", 7)],
        "between two files of a checkpoint": [Killer(checkpoint, "save_file", 8)],
        "before the checkpoint gets its name": [Killer(checkpoint, "sha256_json", 3, after=True)],
        "before last points at it": [Killer(checkpoint, "atomic_write_text", 4)],
        "before best points at it": [Killer(checkpoint, "atomic_write_text", 3)],
        "while an old checkpoint is removed": [Killer(files.shutil, "rmtree", 1)],
        "in the last checkpoint": [Killer(checkpoint, "save_file", 11, after=True)],
        "twice": [Killer(gradients, "to_device", 6), Killer(gradients, "to_device", 5)],
    }

    def attempt(path, killer=None):
        if killer is None:
            train(path)
        else:
            with killer:
                train(path)

    codes = {"whole": [ended(child(lambda: attempt(folder / "whole")))]}
    for moment, its in killers.items():
        path = folder / moment.replace(" ", "-")
        codes[moment] = [ended(child(lambda killer=killer: attempt(path, killer))) for killer in [*its, None]]

    def slow(model, batch):
        time.sleep(0.05)
        return one_loss(model, batch)

    path = folder / "from-outside"
    pid = child(lambda: train(path, step=slow))
    while not (path / "checkpoints" / "last").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    codes["from outside"] = [ended(pid), ended(child(lambda: attempt(path)))]

    for number in (signal.SIGTERM, signal.SIGINT):
        path = folder / number.name
        step = stopping(7, number)
        codes[number.name] = [
            ended(child(lambda: command(lambda example: train(path, example, step=step), Example, prog="x", argv=[]))),
            ended(child(lambda: command(lambda example: train(path, example), Example, prog="x", argv=[]))),
        ]
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
