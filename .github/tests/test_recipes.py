"""Recipes load, say how they are used, and say on what: every task has one for a laptop."""

import importlib
import sys
from importlib.resources import files
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from geocore.cli.config import recipe_names
from geocore.cli.main import load_settings
from workspace import packages

TASKS = {member.module: member for member in packages().values() if member.folder.parts[0] == "tasks"}
RECIPES = [(module, name) for module in TASKS for name in recipe_names(module)]


def head(module, name):
    """The comment that a recipe begins with."""
    lines = (files(module) / "recipes" / f"{name}.yaml").read_text("utf-8").splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:end])


@pytest.mark.parametrize("module", TASKS)
def test_every_task_has_a_recipe_for_its_sample_and_one_for_a_laptop(module):
    assert {"sample", "laptop"} <= set(recipe_names(module))


@pytest.mark.parametrize(("module", "name"), RECIPES)
def test_a_recipe_loads_and_says_its_command_hardware_time_and_score(module, name):
    config = importlib.import_module(f"{module}.config")
    given = [] if name == "sample" else ["--data", "DATASET"]
    if name == "rho-loss":
        given += ["--selection.holdout", "HOLDOUT"]
    settings = load_settings(config.TrainSettings, ["--recipe", name, *given], recipes=module)
    assert settings.recipe == name
    said = head(module, name)
    assert f"{config.TASK}-train" in said and (name == "sample" or f"--recipe {name}" in said)
    assert ("One GPU" in said or "one GPU" in said) == (settings.device.made_for == "gpu")
    assert "CPU" in said or "GPU" in said or "as in the recipe sample" in said
    assert any(word in said for word in ("score", "Expect", "published", "README.md"))


@pytest.mark.parametrize("module", TASKS)
def test_a_recipe_for_a_laptop_needs_neither_weights_nor_a_gpu(module):
    settings = load_settings(
        importlib.import_module(f"{module}.config").TrainSettings, ["--recipe", "laptop"], recipes=module
    )
    assert getattr(settings.model, "weights", "none") == "none"
    assert settings.device.made_for == "any" and settings.device.precision == "float32"
    assert "2 CPU cores" in head(module, "laptop") and "minutes" in head(module, "laptop")
