"""The skeleton that every entry point shares: settings from files and flags, log lines, exit codes.

    def main() -> None:
        command(train, TrainSettings, prog="snowpack-train", recipes="snowpack_sam2")

Settings come, later ones winning, from defaults, `--recipe NAME`, `--config FILE` and flags: `--tiling.size 512`.
Exit codes: 0 done; 2 bad usage, configuration or data, with one line; 130 and 143 stopped by Ctrl-C and SIGTERM;
1 only for a bug, with its traceback. Heavy imports belong inside the function that `command` calls.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from geocore.cli.config import Values, add_mapping, check, read_file, read_flags, read_recipe
from geocore.errors import UserError
from geocore.interruptions import Stopped, unwinding
from geocore.settings import Settings
from geocore.storage.files import storage_errors
from geocore.terminal import console, is_main_rank, on_terminal, one_line

S = TypeVar("S", bound=Settings)


def load_settings(
    cls: type[S],
    argv: Sequence[str],
    *,
    prog: str = "command",
    recipes: str | None = None,
    sample_recipe: str | None = None,
) -> S:
    """Settings from the command line and the files it names.

    Args:
        cls: the settings class of the command. If it has a field `recipe`, the name of the recipe is put there.
        argv: words of the command line without the program's name.
        prog: name of the command, for its help.
        recipes: package with a folder `recipes` of YAML files, or None for a command without recipes.
        sample_recipe: recipe of the built-in sample, used when the command line names no recipe, no file and no
            `--data`.

    Returns:
        The checked settings.

    Raises:
        SettingsError: one line: the value, the rule and the remedy.
        SystemExit: `--help` was asked for and printed.
    """
    flags = read_flags(cls, argv, prog=prog, recipes=recipes)
    config, recipe = flags.take("config"), flags.take("recipe")
    values = Values()
    from_file = read_file(Path(config)) if config is not None else {}
    # A saved configuration names its recipe; loading it again below the saved values changes nothing.
    recipe = recipe or (from_file.get("recipe") if recipes is not None else None)
    if recipe is None and config is None and "data" not in flags.nested:
        recipe = sample_recipe
    if recipe is not None and recipes is not None:
        add_mapping(cls, read_recipe(recipes, str(recipe)), values, f"recipe {recipe}")
    if recipes is not None:
        from_file.pop("recipe", None)
    add_mapping(cls, from_file, values, str(config))
    if recipe is not None and "recipe" in cls.model_fields:
        values.put(("recipe",), recipe, "--recipe")
    values.add(flags)
    return check(cls, values)


def command(
    main: Callable[[S], None],
    settings: type[S],
    *,
    prog: str,
    recipes: str | None = None,
    sample_recipe: str | None = None,
    resumes: bool = False,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Run an entry point and leave the process with its exit code.

    Args:
        main: the work. It may raise `UserError` (code 2), `Stopped` (128 + signal); anything else is a bug (code 1).
        settings: the settings class of the command.
        prog: name of the command.
        recipes: package with a folder `recipes`, or None for a command without recipes.
        sample_recipe: recipe of the built-in sample, used when the command line names no recipe, no file and no
            `--data`.
        resumes: whether the same command, after it was stopped, goes on with what is left; else it starts over.
        argv: words of the command line; those of the process when None.

    Raises:
        SystemExit: always, with the exit code.
    """
    afterwards = "the same command goes on from here" if resumes else "the same command starts over"
    with unwinding() as interruption:
        try:
            code = _finished(main, settings, argv, prog=prog, recipes=recipes, sample_recipe=sample_recipe)
        except BaseException as error:
            # What was being done when a signal came, such as an import, may have made another error of it.
            signum = error.signum if isinstance(error, Stopped) else interruption.received
            if signum is None and isinstance(error, KeyboardInterrupt):
                signum = signal.SIGINT
            if signum is None:
                raise
            print(f"{Stopped(signum)}; {afterwards}", file=sys.stderr)
            code = 128 + signum
    sys.exit(code)


def _finished(
    main: Callable[[S], None],
    settings: type[S],
    argv: Sequence[str] | None,
    *,
    prog: str,
    recipes: str | None,
    sample_recipe: str | None,
) -> int:
    """Do the work of a command; its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error does, so that any name can be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        words = sys.argv[1:] if argv is None else argv
        loaded = load_settings(settings, words, prog=prog, recipes=recipes, sample_recipe=sample_recipe)
        _start_logging(main.__module__.partition(".")[0])
        with storage_errors():
            main(loaded)
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {one_line(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output, such as `head`, has left; Python would complain again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


class _OneLine(logging.Formatter):
    """Writes each message as one line, whatever names of files and texts in files it holds."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # what logging calls it
        record.message = one_line(record.message)
        return super().formatMessage(record)


def _start_logging(package: str) -> None:
    handler: logging.Handler
    if on_terminal():
        from rich.logging import RichHandler

        handler = RichHandler(console=console(), show_path=False, show_level=False, log_time_format="%H:%M:%S")
        handler.setFormatter(_OneLine("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("geocore", package):  # third-party libraries stay at warnings
        logging.getLogger(name).setLevel(logging.INFO if is_main_rank() else logging.WARNING)
    # GDAL warns of tags of files that it reads all the same; what it cannot read or write ends in an exception.
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
