"""From recipe, configuration file and command line to one checked settings object, and what `--help` says of it.

Each source becomes a nested mapping of values with the place each value came from; later sources win, and pydantic
checks the result once. The help is drawn from the same options, those of every day first.
"""

from __future__ import annotations

import difflib
import shutil
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        return next((flag for flag in self.flags if flag.startswith("--")), "")

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


def read_flags(settings: type[Settings], words: Sequence[str], values: Values) -> None:
    """Add the settings given on the command line.

    Args:
        settings: the settings class.
        words: the command line after `--config` and `--recipe` were taken out.
        values: receives the values as text; pydantic turns them into numbers and paths.

    Raises:
        SettingsError: a flag is unknown, lacks its value, or a word belongs to no flag.
    """
    known: dict[str, Option] = {}
    negative: dict[str, Option] = {}
    nested: dict[str, str] = {}
    for option in options(settings):
        known |= dict.fromkeys(option.flags, option)
        if option.off is not None:
            negative[option.off] = option
        if option.kind == "nested":
            nested["--" + option.key.replace("_", "-")] = option.key
    position = 0
    while position < len(words):
        flag, equals, attached = (word := words[position]).partition("=")
        flag = flag.replace("_", "-")
        if not flag.startswith("--") and flag not in known:
            raise SettingsError(f"unexpected argument {word!r}: a setting is given by its name and value; see --help")
        if flag in nested:
            raise SettingsError(f"{flag} holds settings of its own: give {nested[flag]} in a file, by --config FILE")
        if flag not in known and flag not in negative:
            hint = _suggest(flag, [name for name in known if name.startswith("--")])
            raise SettingsError(f"unknown option {word.partition('=')[0]}: {hint}see --help for all options")
        position += 1
        given = [attached] if equals else []
        while not equals and position < len(words) and not _is_flag(words[position], known):
            given.append(words[position])
            position += 1
        option = known.get(flag) or negative[flag]
        if flag not in negative:
            flag = option.name
        value = _flag_value(flag, option, given, flag in negative)
        if option.kind == "many" and isinstance(value, list) and values.origins.get(option.key) == flag:
            value = [*_lookup(values.nested, option.path), *value]  # `--input a --input b` reads like `--input a b`
        values.put(option.path, value, flag)


def _is_flag(word: str, known: Mapping[str, Option]) -> bool:
    # Only a short flag that exists: -9999 is a value.
    return word.startswith("--") or word.partition("=")[0] in known


def _flag_value(flag: str, option: Option, given: list[str], negated: bool) -> Any:
    if option.kind == "flag":
        if negated and not given:
            return False
        if len(given) == (0 if negated else 1) or not given:
            return given[0] if given else True
        raise SettingsError(f"unexpected argument {given[-1]!r} after {flag}, which takes no value")
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
_FLAGS_WIDTH: Final = 28
_WIDEST: Final = 110


def usage(settings: type[Settings], prog: str, recipes: str | None) -> str:
    """The help of a command.

    Args:
        settings: its settings class.
        prog: name of the command.
        recipes: package with a folder `recipes`, or None for a command without recipes.

    Returns:
        Lines as wide as the terminal, at most.
    """
    width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)
    known = [option for option in options(settings) if option.path != ("recipe",)]
    single = sorted((option for option in known if len(option.path) == 1), key=lambda option: _rank(settings, option))
    leading = [option for option in single if option.key in LEADING]
    needed = [f"{option.name} {_value(option)}" for option in single if _required(option)]
    about = _wrapped(cleandoc(settings.__doc__ or ""), width)
    lines = [*_wrapped(" ".join(["usage:", prog, *needed, "[options]"]), width), "", *about, *([""] if about else [])]
    files = [("--config FILE", "YAML or JSON file of settings, above a recipe and below the other options")]
    if recipes is not None:
        names = ", ".join(recipe_names(recipes)) or "none yet"
        files.insert(0, ("--recipe NAME", f"packaged settings: {names}"))
    rest = [option for option in single if option not in leading and option.flags]
    rows = [*map(_row, leading), *files, *map(_row, rest), ("-h, --help", "print this text")]
    lines += _table(rows, width)
    for group in dict.fromkeys(option.path[:-1] for option in known if len(option.path) > 1):
        members = [option for option in known if option.path[:-1] == group and option.flags]
        lines += ["", *_wrapped(f"{'.'.join(group)}: {_text_of(settings, group)}", width)]
        lines += _table(map(_row, members), width)
    nested = [option for option in known if not option.flags]
    if nested:
        lines += ["", "in a file only, by --config:"]
        lines += _table(((option.key, option.help) for option in nested), width)
    return "\n".join(lines) + "\n"


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


def _row(option: Option) -> tuple[str, str]:
    names = ", ".join((*option.flags, *([option.off] if option.off else [])))
    return f"{names} {_value(option)}".strip(), f"{option.help}{_default(option)}"


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


def _table(rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Names to the left, their text to the right; below them where they are too long."""
    for names, text in rows:
        body = _wrapped(text, max(width - _FLAGS_WIDTH, 30)) or [""]
        head = f"  {names}"
        if len(head) > _FLAGS_WIDTH - 2:
            yield head
        else:
            yield f"{head:<{_FLAGS_WIDTH}}{body.pop(0)}".rstrip()
        yield from (" " * _FLAGS_WIDTH + line for line in body)


def _wrapped(text: str, width: int) -> list[str]:
    return [line for paragraph in text.split("\n\n") for line in textwrap.wrap(paragraph, width)]
