"""From recipe, configuration file and command line to one checked settings object, and what `--help` says of it.

Each source becomes a nested mapping of values with the place each value came from; later sources win, and pydantic
checks the result once. The help is drawn from the same options, those of every day first.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from geocore.errors import SettingsError
from geocore.settings import Settings
from geocore.storage.documents import DocumentError, parse_json, parse_yaml, read_text

S = TypeVar("S", bound=Settings)

_SEQUENCES = (tuple, list, set, frozenset, Sequence)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting as the command line sees it."""

    path: tuple[str, ...]
    """Names from the outermost group to the setting."""
    kind: Literal["flag", "one", "many", "pairs", "nested"]
    """How many words it takes: none (true or false), one, several, or key and value in turn; what is nested deeper is
    given in a file."""
    optional: bool
    """Whether None is a value."""
    choices: tuple[Any, ...]
    """Allowed values of a Literal, else empty."""
    value: str
    """What a word of it is: PATH, INT, ..."""
    default: Any
    """Of its group as the command has it; `PydanticUndefined` where the user has to give a value."""
    help: str
    short: str | None = None
    """Second flag, such as -o."""

    @property
    def key(self) -> str:
        """Dotted name, as in error messages."""
        return ".".join(self.path)

    @property
    def flags(self) -> tuple[str, ...]:
        """All that set it on the command line: `-o --out`, or `--device --device.device`; none for what is nested."""
        if self.kind == "nested":
            return ()
        words = [name.replace("_", "-") for name in self.path]
        flags = [self.short] if self.short else []
        if words[-2:-1] == words[-1:]:  # what a group is named after is meant by its name alone
            flags.append("--" + ".".join(words[:-1]))
        return (*flags, "--" + ".".join(words))

    @property
    def name(self) -> str:
        """The flag that messages name."""
        return next((flag for flag in self.flags if flag.startswith("--")), "--" + self.key.replace("_", "-"))

    @property
    def off(self) -> str | None:
        """The flag that makes it false, such as --tracking.no-tensorboard."""
        group, dot, name = self.flags[-1][2:].rpartition(".") if self.kind == "flag" else ("", "", "")
        return f"--{group}{dot}no-{name}" if name else None


@dataclass(slots=True)
class Values:
    """Values gathered so far and where each came from."""

    nested: dict[str, Any] = field(default_factory=dict)
    """Groups are dictionaries; what stands in them is unchecked."""
    origins: dict[str, str] = field(default_factory=dict)
    """Dotted name -> the file or flag that gave the value."""

    def put(self, path: tuple[str, ...], value: Any, origin: str) -> None:
        """Set one value; a value given earlier for the same setting is replaced."""
        group = self.nested
        for name in path[:-1]:
            group = group.setdefault(name, {})
        group[path[-1]] = value
        self.origins[".".join(path)] = origin

    def take(self, name: str) -> Any:
        """A value outside all groups, which is then no longer among them; None where it was not given."""
        self.origins.pop(name, None)
        return self.nested.pop(name, None)

    def add(self, later: Values) -> None:
        """Set all values of another source, which wins."""
        for key, origin in later.origins.items():
            path = tuple(key.split("."))
            self.put(path, _lookup(later.nested, path), origin)


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def options(
    settings: type[BaseModel], prefix: tuple[str, ...] = (), defaults: BaseModel | None = None
) -> Iterator[Option]:
    """Every setting of a settings class, groups opened.

    Args:
        settings: the class.
        prefix: names of the groups around it.
        defaults: the group as those around it have it; None: as the class declares it.
    """
    for name, info in settings.model_fields.items():
        annotation = _bare(info.annotation)
        path = (*prefix, name)
        default = info.get_default(call_default_factory=True) if defaults is None else getattr(defaults, name)
        if _is_group(annotation):
            yield from options(annotation, path, default if isinstance(default, BaseModel) else None)
            continue
        optional = False
        if get_origin(annotation) in (Union, types.UnionType):
            members = [member for member in map(_bare, get_args(annotation)) if member is not type(None)]
            optional = len(members) < len(get_args(annotation))
            annotation = members[0] if len(members) == 1 else annotation
        origin = get_origin(annotation) or annotation
        kind: Literal["flag", "one", "many", "pairs", "nested"] = "one"
        if origin is bool:
            kind = "flag"
        elif origin in _SEQUENCES:
            kind = "many"
        elif origin in (dict, Mapping):
            kind = "nested" if any(map(_is_group, get_args(annotation))) else "pairs"
        extra = info.json_schema_extra
        short = extra.get("short") if isinstance(extra, dict) else None
        choices = get_args(annotation) if origin is Literal else ()
        words, help = _words(annotation), info.description or ""
        yield Option(path, kind, optional, choices, words, default, help, str(short) if short else None)


def _words(annotation: Any) -> str:
    """What stands for a word of a setting in the help."""
    annotation = _bare(annotation)
    origin = get_origin(annotation) or annotation
    members = [member for member in get_args(annotation) if member not in (Ellipsis, type(None))]
    if origin is Literal:
        return f"{{{','.join(map(str, members))}}}"
    if origin is tuple or origin in (dict, Mapping):
        return " ".join(map(_words, members))
    if members:  # a list, or one of several types: the first says most
        return _words(members[0])
    return {int: "INT", float: "FLOAT", Path: "PATH"}.get(origin, "TEXT")


def _suggest(name: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    if not close:  # `--tile-size` for tiling.size: compare with the last part too
        last = {key.rpartition(".")[2].replace("_", "-"): key for key in allowed}
        close = [last[key] for key in difflib.get_close_matches(name.rpartition(".")[2], list(last), n=1)]
    return f"did you mean {close[0]}? " if close else ""


class _Given(argparse.Action):
    """Notes what each flag got, in the order of the command line."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, words: Any, flag: str | None = None
    ) -> None:
        namespace.given.append((self.dest, flag, words))


class _Help(argparse.HelpFormatter):
    """The help as wide as the terminal, with the value of an option said once behind all its flags."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_width())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return f"{', '.join(action.option_strings)} {action.metavar or ''}".rstrip()


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)


def _parser(settings: type[Settings], prog: str, known: Mapping[str, Option]) -> argparse.ArgumentParser:
    needed = [f"{option.name} {_value(option)}" for option in known.values() if _required(option)]
    usage = textwrap.fill(" ".join((prog, *needed, "[options]")), _width() - len("usage: "))
    about = cleandoc(settings.__doc__ or "")
    parser = argparse.ArgumentParser(prog, usage, about, formatter_class=_Help, add_help=False, allow_abbrev=False)
    for names in dict.fromkeys(option.path[:-1] for option in known.values()):
        group = parser.add_argument_group(".".join(names), _text_of(settings, names)) if names else parser
        for option in known.values():
            if option.path[:-1] == names:
                flags = [*option.flags, *([option.off] if option.off else [])]
                about = f"{option.help}{_default(option)}".replace("%", "%%")
                if option.kind == "nested":
                    flags, about = ["--" + option.key.replace("_", "-")], argparse.SUPPRESS
                value = _value(option)
                # How many words it should have got, `_flag_value` says.
                group.add_argument(*flags, dest=option.key, action=_Given, nargs="*", metavar=value, help=about)
    parser.add_argument("-h", "--help", action="help", help="print this text")
    for option in known.values():
        if option.kind == "nested":
            parser.add_argument_group("in a file only, by --config", f"{option.key}: {option.help}")
    return parser


def read_flags(settings: type[Settings], words: Sequence[str], *, prog: str, recipes: str | None) -> Values:
    """The settings given on the command line, `config` and `recipe` among them.

    Args:
        settings: the settings class.
        words: the command line without the program's name.
        prog: name of the command, for its help.
        recipes: package with a folder `recipes`, or None for a command without recipes.

    Returns:
        The values as text; pydantic turns them into numbers and paths.

    Raises:
        SettingsError: a flag is unknown, lacks its value, or a word belongs to no flag.
        SystemExit: `--help` was asked for and printed.
    """
    known, values = _known(settings, recipes), Values()
    flags = ["-h", "--help", *(flag for option in known.values() for flag in option.flags)]
    parsed, rest = _parser(settings, prog, known).parse_known_args(
        [_marked(word, flags) for word in words], argparse.Namespace(given=[])
    )
    if rest and rest[0].startswith("--"):
        name = next(word for word in words if _marked(word, flags) == rest[0]).partition("=")[0]
        hint = _suggest(name.replace("_", "-"), [flag for flag in flags if flag.startswith("--")])
        raise SettingsError(f"unknown option {name}: {hint}see --help for all options")
    if rest:
        raise SettingsError(
            f"unexpected argument {rest[0][1:]!r}: a setting is given by its name and value; see --help"
        )
    for key, flag, given in parsed.given:
        option = known[key]
        flag = flag if flag == option.off else option.name
        value = _flag_value(flag, option, [word[1:] for word in given])
        if option.kind == "many" and value is not None and values.origins.get(key) == flag:
            value = [*(_lookup(values.nested, option.path) or ()), *value]  # `--input a --input b`: `--input a b`
        values.put(option.path, value, flag)
    return values


def _known(settings: type[Settings], recipes: str | None) -> dict[str, Option]:
    """Everything that a command takes, by its dotted name, in the order of its help."""
    found = [option for option in options(settings) if option.path != ("recipe",)]
    found.sort(key=lambda option: _rank(settings, option) if len(option.path) == 1 else (True, 2, True))
    about = "YAML or JSON file of settings, above a recipe and below the other options"
    named = [Option(("config",), "one", False, (), "FILE", None, about)]
    if recipes is not None:
        about = f"packaged settings: {', '.join(recipe_names(recipes)) or 'none yet'}"
        named.insert(0, Option(("recipe",), "one", False, (), "NAME", None, about))
    leading = sum(option.key in LEADING for option in found)
    return {option.key: option for option in (*found[:leading], *named, *found[leading:])}


def _marked(word: str, flags: Sequence[str]) -> str:
    """A word as argparse takes it for what it is: a flag with hyphens, or `=` and a value, which may begin with `-`."""
    flag, equals, value = word.partition("=")
    if flag.startswith("--"):
        flag = flag.replace("_", "-")
    elif flag not in flags:
        return f"={word}"
    return f"{flag}=={value}" if equals else flag


def _flag_value(flag: str, option: Option, given: list[str]) -> Any:
    if option.kind == "nested":
        raise SettingsError(f"{flag} holds settings of its own: give {option.key} in a file, by --config FILE")
    if option.kind == "flag":
        if len(given) > (flag != option.off):
            raise SettingsError(f"unexpected argument {given[-1]!r} after {flag}, which takes no value")
        return given[0] if given else flag != option.off
    if option.optional and len(given) == 1 and given[0].lower() in ("none", "null"):
        return None
    if option.kind == "many":
        return given
    if option.kind == "pairs":
        if len(given) % 2:
            raise SettingsError(f"{flag} got {len(given)} words: it takes a key and a value in turn")
        return dict(zip(given[::2], given[1::2], strict=True))
    if not given:
        raise SettingsError(f"{flag} lacks its value: give {flag} VALUE")
    if len(given) > 1:
        raise SettingsError(f"unexpected argument {given[1]!r} after {flag} {given[0]}, which takes one value")
    # pydantic compares a Literal without converting text, so a numeric choice is looked up here.
    return next((choice for choice in option.choices if str(choice) == given[0]), given[0])


def _lookup(nested: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        nested = nested[name]
    return nested


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises:
        SettingsError: the file is missing, unreadable, neither YAML nor JSON, or no mapping.
    """
    try:
        text = read_text(path)
    except OSError as error:
        reason = error.strerror
    except DocumentError as error:
        reason = str(error)
    else:
        return _parse(text, path.name, json_only=path.suffix == ".json")
    raise SettingsError(f"cannot read {path}: {reason}; give a YAML or JSON file of settings")


def _parse(text: str, name: str, *, json_only: bool) -> dict[str, Any]:
    try:
        # Whether a number may be NaN or infinite, the setting says.
        content = parse_json(text, finite=False) if json_only else parse_yaml(text)
    except DocumentError as error:
        place = f"{name}, line {error.line or 1}" if error.syntax or error.line else name
        if not error.syntax:
            raise SettingsError(f"{place}: {error.rule}; correct it") from None
        form = "JSON" if json_only else "YAML"
        raise SettingsError(f"{place}: not valid {form}; mend that line or the one above it") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{name} holds a {type(content).__name__}: settings are a mapping of names to values")
    return content


def recipe_names(package: str) -> list[str]:
    """Names of the recipes that a package brings along."""
    folder = files(package) / "recipes"
    if not folder.is_dir():
        return []
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_recipe(package: str, name: str) -> dict[str, Any]:
    """The mapping in a packaged recipe.

    Raises:
        SettingsError: the package has no recipe of that name.
    """
    names = recipe_names(package)
    if name not in names:
        raise SettingsError(f"unknown recipe {name!r}: {_suggest(name, names)}there are {', '.join(names) or 'none'}")
    return _parse((files(package) / "recipes" / f"{name}.yaml").read_text("utf-8"), f"recipe {name}", json_only=False)


def add_mapping(settings: type[BaseModel], mapping: Any, values: Values, origin: str, at: tuple[str, ...] = ()) -> None:
    """Add the values of a file, name by name, so that a later file may give only what differs.

    Raises:
        SettingsError: a name is no setting, or a group is not a mapping.
    """
    if not isinstance(mapping, dict):
        raise SettingsError(f"{'.'.join(at)} = {mapping!r} ({origin}): must be a mapping of names to values")
    fields = settings.model_fields
    for name, value in mapping.items():
        path = (*at, str(name))
        if name not in fields:
            hint = _suggest(str(name), list(fields))
            raise SettingsError(f"unknown setting {'.'.join(path)} ({origin}): {hint}allowed: {', '.join(fields)}")
        annotation = _bare(fields[name].annotation)
        if _is_group(annotation):
            add_mapping(annotation, value, values, origin, path)
        else:
            values.put(path, value, origin)


def check(settings: type[S], values: Values) -> S:
    """Build the settings object.

    Raises:
        SettingsError: one line for all values that break a rule: name, value, rule and where it was given.
    """
    try:
        return settings.model_validate(values.nested)
    except ValidationError as error:
        raise SettingsError("; ".join(dict.fromkeys(_error_lines(settings, error, values)))) from None


def _error_lines(settings: type[Settings], error: ValidationError, values: Values) -> Iterator[str]:
    keys = sorted((option.key for option in options(settings)), key=len, reverse=True)
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        key = next((key for key in keys if where == key or where.startswith(key + ".")), where)
        rule = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if problem["type"] == "missing" and key not in values.origins:
            yield f"{key} is missing: give --{key.replace('_', '-')} VALUE"
        elif key in values.origins:
            rule = "takes more values" if problem["type"] == "missing" else rule
            value = str(_lookup(values.nested, tuple(key.split("."))))
            value = value if len(value) <= 200 else f"{value[:197]}..."
            yield f"{key} = {value} ({values.origins[key]}): {rule}"
        else:  # a rule between several settings of a group
            yield f"{where}: {rule}" if where else rule


LEADING: Final = ("run", "data", "image", "label", "input", "out", "output")
"""What nearly every call gives: it stands first, in this order."""
_WIDEST: Final = 110


def _rank(settings: type[Settings], option: Option) -> tuple[bool, int, bool]:
    """Leading ones, what has to be given, what the command declares itself, what it shares with others."""
    leads = option.key in LEADING
    inherited = any(option.key in base.model_fields for base in settings.__bases__ if issubclass(base, Settings))
    return (not leads, LEADING.index(option.key) if leads else int(not _required(option)), inherited)


def _required(option: Option) -> bool:
    return option.default is PydanticUndefined


def _text_of(settings: type[Settings], group: Sequence[str]) -> str:
    """What a group says of itself."""
    found: Any = settings
    text = ""
    for name in group:
        info = found.model_fields[name]
        found = info.annotation
        text = info.description or cleandoc(found.__doc__ or "")
    return text


def _value(option: Option) -> str:
    if option.kind == "flag":
        return ""
    # A tuple of two numbers takes these two.
    several = option.kind == "pairs" or (option.kind == "many" and " " not in option.value)
    return f"{option.value} ..." if several else option.value


def _default(option: Option) -> str:
    if _required(option):
        return " (required)"
    text = _shown(option.default)
    tells = text and (option.default is not None or "none" in option.help.lower())
    return f" (default: {text})" if tells else ""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_shown(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(_shown, value))
    return str(value)
