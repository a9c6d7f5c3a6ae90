"""What commands, messages and pages say of options is true: every flag exists, and one leaves its neighbours alone."""

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from geocore.cli.config import options
from geocore.cli.main import load_settings
from geocore.errors import SettingsError
from geocore.settings import Settings
from workspace import ROOT, packages

MEMBERS = {
    member.name: member for member in packages().values() if member.name not in ("geocore-bench", "geocore-trials")
}
FLAG = re.compile(r"(?<![\w-])--[a-z](?:[\w.-]*\w)?")
FOREIGN = {"--porcelain", "--extra", "--group", "--package", "--c", "--colour", "--rule", "--stroke"}
"""Options of git and uv that messages and commands hold, and properties of the report's style sheet."""


def _module_of(place):
    """The module that an entry point runs."""
    entrypoints, _, function = place.partition(":")
    entrypoints, named = importlib.import_module(entrypoints), []
    kept, entrypoints.run_command = entrypoints.run_command, named.append
    try:
        getattr(entrypoints, function)()
    finally:
        entrypoints.run_command = kept
    return importlib.import_module(named[0])


def _commands():
    """Name of each command -> (package, module, settings class, package of its recipes)."""
    found = {}
    for member in MEMBERS.values():
        with open(ROOT / member.folder / "pyproject.toml", "rb") as file:
            scripts = tomllib.load(file)["project"].get("scripts", {})
        for name, place in scripts.items():
            module = _module_of(place)
            given = {}
            kept, module.command = (
                module.command,
                lambda main, settings, given=given, **rest: given.update({"settings": settings, **rest}),
            )
            try:
                module.main()
            finally:
                module.command = kept
            assert given["prog"] == name
            found[name] = (member, module, given["settings"], given.get("recipes"))
    return found


COMMANDS = _commands()


def _accepted(name):
    _, _, settings, recipes = COMMANDS[name]
    flags = {"-h", "--help", "--config", *(["--recipe"] if recipes else [])}
    for option in options(settings):
        flags |= {*option.flags, *([option.off] if option.off else [])}
    return flags


ACCEPTED = {name: _accepted(name) for name in COMMANDS}


def _of(member):
    """All flags that a command of a package takes; of the library those of any."""
    commands = [name for name, (owner, *_) in COMMANDS.items() if owner.name == member.name] or list(COMMANDS)
    return set().union(*(ACCEPTED[name] for name in commands))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_lists_exactly_the_options_that_exist(name, capsys):
    _, _, settings, recipes = COMMANDS[name]
    with pytest.raises(SystemExit) as stopped:
        load_settings(settings, ["--help"], prog=name, recipes=recipes)
    assert stopped.value.code == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if re.match(r"  -", line)]
    # Each line begins with the names of one option, then its value or, two spaces on, its text.
    listed = {
        word.rstrip(",") for line in heads for word in re.split(r"\s{2,}", line.strip())[0].split() if word[0] == "-"
    }
    assert listed == ACCEPTED[name]
    for flag in listed - {"-h", "--help"}:
        said = _refusal(settings, [flag], recipes)  # of its value, or of what is required
        assert "unknown option" not in said and "unexpected argument" not in said


def _refusal(settings, words, recipes):
    try:
        load_settings(settings, words, recipes=recipes)
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", [name for name in COMMANDS if "-predict" in name or "-train" in name])
def test_the_device_is_chosen_by_its_name_alone(name):
    _, _, settings, _ = COMMANDS[name]
    needed = ["--run", "r", "--input", "i", "--output", "o"] if "-predict" in name else []
    for flag in ("--device", "--device.device"):
        assert load_settings(settings, [*needed, flag, "cpu"]).device.device == "cpu"


def _groups(settings):
    """Groups of options in a command's settings, each as the command has it by default."""
    return {name: field.default for name, field in settings.model_fields.items() if isinstance(field.default, Settings)}


@pytest.mark.parametrize("name", [name for name, (_, _, settings, _) in COMMANDS.items() if _groups(settings)])
def test_one_flag_leaves_its_neighbours_at_the_defaults_of_the_command(name):
    _, _, settings, _ = COMMANDS[name]
    # --data is one way of several to say what slumps-prepare reads, and so is not required by itself.
    needed = {key: "x" for key, field in settings.model_fields.items() if field.is_required() or key == "data"}
    for group, default in _groups(settings).items():
        for key, value in default:
            given = settings.model_validate({**needed, group: {key: value}})
            assert getattr(given, group) == default, f"{group}.{key}"


@pytest.mark.parametrize("name", [name for name in COMMANDS if "-train" in name])
def test_a_flag_and_a_file_keep_the_overlap_of_the_task(name, tmp_path):
    _, _, settings, recipes = COMMANDS[name]
    default = settings().tiling
    file = tmp_path / "own.yaml"
    file.write_text(f"tiling: {{size: {2 * default.size}}}\n")
    for words in (["--tiling.size", str(2 * default.size)], ["--config", str(file)]):
        tiling = load_settings(settings, words, recipes=recipes).tiling
        assert (tiling.size, tiling.overlap) == (2 * default.size, default.overlap)


def _texts(path):
    """Text and line of every string in a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


@pytest.mark.parametrize("member", MEMBERS.values(), ids=list(MEMBERS))
def test_every_flag_in_a_message_exists(member):
    known = _of(member) | FOREIGN
    unknown = [
        f"{path.relative_to(ROOT)}:{line}: {flag}"
        for path in sorted((ROOT / member.folder / "src").rglob("*.py"))
        for line, text in _texts(path)
        for flag in FLAG.findall(text)
        if flag not in known
    ]
    assert unknown == []


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "tasks").glob("*/README.md")), ROOT / "README.md"], ids=lambda p: p.parent.name
)
def test_every_command_of_a_readme_has_the_options_it_is_given(path):
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    wrong = []
    for name, accepted in ACCEPTED.items():
        for line in re.findall(rf"(?<![\w-]){name}(?![\w-])(.*)", text):
            line = re.split(r"[`|#]|&&|\b[a-z]+-(?:prepare|train|evaluate|predict)\b", line)[0]
            wrong += [f"{name}{line}: {flag}" for flag in FLAG.findall(line) if flag not in accepted]
    assert wrong == []


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_of_every_command_are_finite_and_of_64_bits(name):
    _, _, settings, recipes = COMMANDS[name]
    for option in options(settings):
        words = {"FLOAT": ["inf", "-inf", "nan", "1e999"], "INT": ["9" * 20, "9" * 4000]}.get(option.value, [])
        if option.kind not in ("one", "many") or option.path[-1] == "nodata":
            continue  # missing values may be called NaN
        for word in words:
            said = _refusal(settings, [option.name, word], recipes)
            assert f"{option.key} = " in said and "\n" not in said, word
            assert len(said) < 1000
