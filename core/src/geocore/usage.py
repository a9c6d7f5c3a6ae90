"""What `--help` prints: every option of a command with its meaning and default, those of every day first."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import cleandoc
from typing import Any, Final

from pydantic_core import PydanticUndefined

from geocore.arguments import Option, options, recipe_names
from geocore.settings import Settings

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
