import inspect
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest

from geocore import interruptions
from geocore import terminal as progress_module
from geocore.cli.main import command, load_settings
from geocore.errors import DataError, SettingsError
from geocore.interruptions import Stopped
from geocore.settings import (
    DeviceSettings,
    OptimizerSettings,
    Settings,
    TilingSettings,
    TrackingSettings,
    WorkerSettings,
    deciding,
    operational,
)
from geocore.terminal import progress

TOY = '''
import os, signal, sys, time
from pathlib import Path
from geocore.cli.main import command
from geocore.settings import OptimizerSettings, Settings, TilingSettings, operational

class Toy(Settings):
    """Train a toy."""
    run: Path | None = operational(None, "run folder")
    tiling: TilingSettings = TilingSettings()
    optimizer: OptimizerSettings = OptimizerSettings()

def train(settings):
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        print("cleaned up", flush=True)

if __name__ == "__main__":
    import atexit
    atexit.register(lambda: print("HEAVY", sorted({"torch", "rasterio", "scipy"} & set(sys.modules))))
    command(train, Toy, prog="toy-train")
'''


class Toy(Settings):
    """Train a toy."""

    data: Path | None = operational(None, "data set")
    recipe: str | None = operational(None, "name of the recipe")
    input: list[Path] = operational([], "files")
    ratio: Literal[1, 2] = deciding(1, "a choice of numbers")
    bands: dict[str, int] = deciding({}, "band name and number in turn")
    tiling: TilingSettings = TilingSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    tracking: TrackingSettings = TrackingSettings()


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    package = tmp_path / "toy_recipes"
    (package / "recipes").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    content = "tiling: {size: 64, overlap: 16}\noptimizer: {learning_rate: 1e-2}\n"
    (package / "recipes" / "small.yaml").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    yield package.name
    sys.modules.pop(package.name, None)


@pytest.fixture(autouse=True)
def _own_logging():
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    yield
    root.handlers[:] = kept
    root.setLevel(level)


def leave(main, argv=(), **options):
    with pytest.raises(SystemExit) as left:
        command(main, Toy, prog="toy", argv=argv, **options)
    return left.value.code


def test_defaults_then_recipe_then_config_then_flags(tmp_path, recipes):
    config = tmp_path / "mine.yaml"
    config.write_text("tiling: {size: 128}\ntracking: {tensorboard: false}\n")
    loaded = load_settings(Toy, [], recipes=recipes)
    assert (loaded.tiling.size, loaded.recipe) == (256, None)
    loaded = load_settings(Toy, ["--recipe", "small"], recipes=recipes)
    assert (loaded.tiling.size, loaded.optimizer.learning_rate, loaded.recipe) == (64, 0.01, "small")
    loaded = load_settings(Toy, ["--recipe=small", "--config", str(config)], recipes=recipes)
    assert (loaded.tiling.size, loaded.tiling.overlap, loaded.tracking.tensorboard) == (128, 16, False)
    words = ["--tiling.size", "96", "--recipe", "small", "--config", str(config)]
    assert load_settings(Toy, words, recipes=recipes).tiling.size == 96


def test_the_recipe_of_the_sample_gives_way_to_a_named_one_a_file_and_data(tmp_path, recipes):
    config = tmp_path / "mine.yaml"
    config.write_text("ratio: 2\n")
    options = {"recipes": recipes, "sample_recipe": "small"}
    assert load_settings(Toy, ["--ratio", "2"], **options).recipe == "small"
    assert load_settings(Toy, ["--config", str(config)], **options).recipe is None
    for given in (["--data", "scenes"], ["--data=scenes"]):
        assert load_settings(Toy, ["--ratio", "2", *given], **options).recipe is None
    with pytest.raises(SettingsError, match="unknown recipe 'other'"):
        load_settings(Toy, ["--recipe", "other"], **options)


def test_saved_settings_load_as_they_were(tmp_path, recipes):
    settings = load_settings(Toy, ["--recipe", "small", "--ratio", "2", "--input", "a.tif"], recipes=recipes)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings.model_dump(mode="json")))
    assert load_settings(Toy, ["--config", str(config)], recipes=recipes) == settings


def test_a_config_file_may_build_on_a_recipe(tmp_path, recipes):
    config = tmp_path / "mine.yaml"
    config.write_text("recipe: small\ntiling: {overlap: 8}\n")
    loaded = load_settings(Toy, ["--config", str(config)], recipes=recipes)
    assert (loaded.tiling.size, loaded.tiling.overlap, loaded.recipe) == (64, 8, "small")


def test_flags_of_every_kind():
    words = "--input a b --input=c --ratio 2 --bands nir 4 red 1 --tracking.no-tensorboard"
    words += " --optimizer.learning_rate 1e-3 --optimizer.clip-norm none --optimizer.betas 0.8 0.9"
    loaded = load_settings(Toy, words.split())
    assert loaded.input == [Path("a"), Path("b"), Path("c")]
    assert (loaded.ratio, loaded.bands) == (2, {"nir": 4, "red": 1})
    assert not loaded.tracking.tensorboard
    assert (loaded.optimizer.learning_rate, loaded.optimizer.clip_norm) == (1e-3, None)
    assert loaded.optimizer.betas == (0.8, 0.9)
    assert load_settings(Toy, ["--tracking.tensorboard"]).tracking.tensorboard
    assert not load_settings(Toy, ["--tracking.tensorboard", "false"]).tracking.tensorboard


class _WithShort(Settings):
    image: Path = operational(..., "scene", short="-i")
    bands: list[str] = deciding([], "bands", short="-b")
    nodata: float | None = deciding(None, "value of invalid pixels")


def test_short_flags():
    loaded = load_settings(_WithShort, ["-i", "a.tif", "--nodata", "-9999", "-b", "1", "2", "--bands", "3", "-b=4"])
    assert (loaded.image, loaded.bands, loaded.nodata) == (Path("a.tif"), ["1", "2", "3", "4"], -9999)
    with pytest.raises(SettingsError, match="unexpected argument '-x'"):
        load_settings(_WithShort, ["-x", "1", "-i", "a.tif"])
    with pytest.raises(SettingsError, match="lacks its value"):
        load_settings(_WithShort, ["-i", "-b", "1"])


def test_short_flags_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        command(lambda settings: None, _WithShort, prog="toy", argv=["--help"])
    shown = capsys.readouterr().out
    assert "  -i, --image PATH  " in shown and "  -b, --bands TEXT ...  " in shown


def help_of(settings, prog="toy", recipes=None, words=("--help",)):
    with pytest.raises(SystemExit) as left:
        command(lambda settings: None, settings, prog=prog, recipes=recipes, argv=words)
    assert left.value.code == 0


def test_the_help_begins_with_what_every_call_gives(capsys, recipes):
    class Map(WorkerSettings):
        """Map scenes."""

        threshold: float | None = deciding(None, "score; none: the one of the run")
        output: Path = operational(..., "folder for the products")
        input: list[Path] = operational(..., "scenes")
        plan: bool = operational(False, "say what it takes")
        run: Path = operational(..., "run folder")
        betas: tuple[float, float] = deciding((0.9, 0.5), "two shares")
        tiling: TilingSettings = TilingSettings(size=512, overlap=128)
        parts: dict[str, TilingSettings] = deciding({}, "tiles of each part")

    help_of(Map, "toy-predict", recipes)
    shown = capsys.readouterr().out
    heads = [line.split()[0].rstrip(",") for line in shown.splitlines() if line.startswith("  -")]
    assert heads[:5] == ["--run", "--input", "--output", "--recipe", "--config"]
    assert heads.index("--plan") < heads.index("--workers") < heads.index("-h")
    assert shown.startswith("usage: toy-predict --run PATH --input PATH ... --output PATH [options]\n\nMap scenes.\n")
    for part in (
        "run folder (required)",
        "packaged settings: small",
        "score; none: the one of the run (default: none)",
        "--plan, --no-plan",
        "--betas FLOAT FLOAT ",
        "(default: 0.9 0.5)",
        "neighbouring tiles share; smaller than size (default: 128)",
    ):
        assert part in shown
    # What cannot be written in words is no option.
    assert "--parts" not in shown and shown.splitlines()[-2] == "in a file only, by --config:"
    with pytest.raises(SettingsError, match="--parts holds settings of its own: give parts in a file, by --config"):
        load_settings(Map, ["--parts", "a", "b"])


def test_the_help_fits_the_terminal(capsys, monkeypatch):
    for columns in ("60", "80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        help_of(Toy)
        assert max(map(len, capsys.readouterr().out.splitlines())) <= min(int(columns), 110)


def test_help_is_printed_whatever_else_stands_there(capsys):
    for words in (["-h"], ["--tiling.size", "32", "-h"], ["--nonsense", "1", "--help"]):
        help_of(Toy, words=words)
        assert capsys.readouterr().out.startswith("usage: toy [options]\n")


def test_values_may_begin_with_a_hyphen_hold_blanks_and_be_empty():
    loaded = load_settings(
        _WithShort, ["--image", "-a b.tif", "--nodata", "-1e-4", "--bands", "-x", "", "a=b", "--bands=-y"]
    )
    assert (loaded.image, loaded.nodata, loaded.bands) == (Path("-a b.tif"), -1e-4, ["-x", "", "a=b", "-y"])
    with pytest.raises(SettingsError, match="unknown option --no_data: did you mean --nodata"):
        load_settings(_WithShort, ["--no_data", "1"])
    with pytest.raises(SettingsError, match="unknown option --imag: did you mean --image"):  # never an abbreviation
        load_settings(_WithShort, ["--imag", "a.tif"])


def test_a_group_is_named_for_the_member_of_its_name():
    class OnDevice(Settings):
        device: DeviceSettings = DeviceSettings()

    for words in (["--device", "cpu"], ["--device=cpu"], ["--device.device", "cpu"]):
        assert load_settings(OnDevice, words).device.device == "cpu"
    assert load_settings(OnDevice, ["--device", "cpu", "--device.threads", "2"]).device.threads == 2
    with pytest.raises(SettingsError, match=r"device.device = gpu \(--device\): "):
        load_settings(OnDevice, ["--device", "gpu"])


def test_the_help_shows_the_text_of_each_group_without_reading_its_source(capsys, monkeypatch):
    class Depth(Settings):
        """How deep.

        Below the surface.
        """

        limit: float = deciding(2.0, "lowest layer, m")

    class WithGroup(Settings):
        depth: Depth = Depth()

    monkeypatch.setattr(inspect, "getsource", lambda found: pytest.fail(f"the source of {found} is read"))
    with pytest.raises(SystemExit):
        command(lambda settings: None, WithGroup, prog="toy", argv=["--help"])
    shown = capsys.readouterr().out
    assert "How deep." in shown and "Below the surface." in shown and "lowest layer, m" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tiling.size", "-4"], ["tiling.size = -4", "--tiling.size", "greater than 0"]),
        (["--tiling.size", "many"], ["tiling.size = many", "integer"]),
        (["--tiling.size", "32"], ["tiling", "overlap 64 must be smaller than size 32"]),
        (["--tilling.size", "32"], ["unknown option --tilling.size", "did you mean --tiling.size"]),
        (["--tile-size", "32"], ["did you mean --tiling.size"]),
        (["--ratio", "3"], ["ratio = 3", "1 or 2"]),
        (["--tiling.size"], ["--tiling.size lacks its value"]),
        (["--tiling.size", "32", "64"], ["unexpected argument '64'"]),
        (["scene.tif"], ["unexpected argument 'scene.tif'"]),
        (["--bands", "nir"], ["a key and a value in turn"]),
        (["--optimizer.betas", "0.9"], ["optimizer.betas", "more values"]),
        (["--tracking.no-tensorboard", "x"], ["unexpected argument 'x'"]),
        (["--config"], ["--config lacks its value"]),
        (["--config", "nowhere.yaml"], ["cannot read nowhere.yaml"]),
        (["--recipe", "smal"], ["unknown recipe 'smal'", "did you mean small"]),
        (["--optimizer.learning-rate", "inf"], ["learning_rate = inf (--optimizer.learning-rate): should be a finite"]),
        (["--optimizer.betas", "0.9", "1e999"], ["optimizer.betas", "finite"]),
        (["--tiling.size", "9223372036854775808"], ["tiling.size = 9223372036854775808", "64 bits"]),
        (["--optimizer.learning-rate", "nan", "--ratio", "7"], ["learning_rate = nan", "; ", "ratio = 7"]),
    ],
)
def test_bad_usage_is_one_line_with_value_and_remedy(words, said, recipes):
    with pytest.raises(SettingsError) as caught:
        load_settings(Toy, words, recipes=recipes)
    line = str(caught.value)
    assert "\n" not in line and "│" not in line and "pydantic" not in line
    assert [part for part in said if part not in line] == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("tiling: {sise: 32}", ["unknown setting tiling.sise (c.yaml)", "did you mean size", "size, overlap"]),
        ("tilling: {size: 32}", ["unknown setting tilling", "did you mean tiling"]),
        ("tiling: 32", ["tiling = 32", "mapping"]),
        ("tiling: {size: 1.5}", ["tiling.size = 1.5 (c.yaml)"]),
        ("- 1", ["holds a list"]),
        ("a: [\nb: 1", ["line 2", "not valid YAML"]),
        ("data: !!python/object/apply:os.getcwd []", ["not valid YAML"]),
        ("tiling:\n\tsize: 32", ["line 2", "not valid YAML"]),
        ("a: 2024-13-45", ["not valid YAML"]),
        ("[" * 200_000, ["c.yaml, line 1: more than 100 levels deep"]),
        ("- " * 100_000, ["c.yaml, line 1: more than 100 levels deep"]),
        ("optimizer: {learning_rate: .inf}", ["optimizer.learning_rate = inf (c.yaml)", "finite"]),
        ("optimizer: {learning_rate: 1.0e+999}", ["optimizer.learning_rate = inf (c.yaml)", "finite"]),
        ("optimizer: {learning_rate: 1e999}", ["optimizer.learning_rate = 1e999 (c.yaml)", "finite"]),
        ("tiling: {size: 64, size: 32}", ["c.yaml, line 1: key 'size' is given twice"]),
        ("tiling: {size: 64}\nratio: 2\ntiling: {size: 32}", ["c.yaml, line 3: key 'tiling' is given twice"]),
        ("tiling: {size: 1" + ":00" * 100_000 + "}", ["c.yaml, line 1: ", "more than 64 bits"]),
        ("a: &a [x, x]\nb: &b [" + "*a, " * 9 + "]\nc: [" + "*b, " * 70_000 + "]", ["line 3: aliases stand for more"]),
        ('data: "a\\0b"', ["holds a NUL character"]),
        ("a: \udcff", ["not UTF-8 text"]),
    ],
)
def test_bad_configuration_files_are_one_line(tmp_path, content, said):
    (tmp_path / "c.yaml").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError) as caught:
        load_settings(Toy, ["--config", str(tmp_path / "c.yaml")])
    line = str(caught.value).replace(f"{tmp_path}/", "")
    assert "\n" not in line
    assert [part for part in said if part not in line] == []


def test_a_missing_required_setting_is_named():
    class Needs(Settings):
        run: Path = operational(..., "run folder")

    with pytest.raises(SettingsError, match="run is missing: give --run VALUE"):
        load_settings(Needs, [])


def test_exit_codes(capsys):
    def refuse(settings):
        raise DataError("a.tif has 3 bands\nbut the model needs 4")

    def stop(settings):
        raise Stopped(signal.SIGTERM)

    def interrupt(settings):
        raise KeyboardInterrupt

    def fill_disk(settings):
        raise OSError(28, "No space left on device", "part.tif")

    assert leave(lambda settings: None) == 0
    assert capsys.readouterr().err == ""
    assert leave(refuse) == 2
    assert capsys.readouterr().err == "error: a.tif has 3 bands but the model needs 4\n"
    assert leave(lambda settings: None, ["--nonsense"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown option --nonsense")
    for resumes, afterwards in ((False, "starts over"), (True, "goes on from here")):
        assert leave(stop, resumes=resumes) == 143
        assert capsys.readouterr().err == f"stopped by SIGTERM; the same command {afterwards}\n"
        assert leave(interrupt, resumes=resumes) == 130
        assert capsys.readouterr().err == f"stopped by SIGINT; the same command {afterwards}\n"
    assert leave(fill_disk) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    def bug(settings):
        raise ValueError("programmer error")

    with pytest.raises(ValueError, match="programmer error"):
        command(bug, Toy, prog="toy", argv=[])


def test_the_signal_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    leave(lambda settings: None)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture(scope="module")
def toy_script(tmp_path_factory):
    script = tmp_path_factory.mktemp("toy") / "toy.py"
    script.write_text(TOY)
    return script


def test_help_imports_nothing_heavy_and_shows_every_option(toy_script):
    done = subprocess.run([sys.executable, toy_script, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "HEAVY []" in done.stdout
    for option in ("--tiling.size", "--optimizer.learning-rate", "--run", "--config"):
        assert option in done.stdout


def test_loading_settings_imports_nothing_heavy(toy_script):
    command_line = [sys.executable, toy_script, "--tiling.size", "0"]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_unwind_and_give_their_code(toy_script, number, code):
    process = subprocess.Popen([sys.executable, toy_script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "cleaned up" in out
    assert "Traceback" not in err


def test_a_signal_while_it_cleans_up_prints_nothing_more(toy_script):
    code = toy_script.read_text().replace(
        'print("cleaned up", flush=True)', 'print("cleaning", flush=True); time.sleep(9)'
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGTERM)  # as `timeout` does, to the process and to its group
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(interruptions.REPEAT_S + 0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=3)[1] == "" and process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_is_lost_in_a_destructor_comes_again(number):
    class Leaving:
        def __del__(self):
            signal.raise_signal(number)

    def work(settings):
        leaving = Leaving()
        del leaving
        time.sleep(5)

    begun, hook = time.monotonic(), sys.unraisablehook
    assert leave(work) == 128 + number and time.monotonic() - begun < 4 and sys.unraisablehook is hook


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("place", ["before the command", "within it", "within it, swallowed"])
def test_a_signal_while_modules_are_imported_ends_as_quietly(tmp_path, number, code, place):
    sleep = (
        "import time\nprint('ready', flush=True)\ntry:\n    time.sleep(30)\nexcept BaseException as error:\n    raise "
    )
    (tmp_path / "slow.py").write_text(sleep + ("SystemError from e\n" if "swallowed" in place else "\n"))
    heavy = "import slow" if place == "before the command" else "pass"
    light = "pass" if place == "before the command" else "import slow"
    (tmp_path / "work.py").write_text(
        f"{heavy}\n"
        "from geocore.cli.main import command\nfrom geocore.settings import Settings\n\n\n"
        f"def work(settings):\n    {light}\n\n\n"
        "def main():\n    command(work, Settings, prog='work')\n"
    )
    start = "from geocore.interruptions import run_command; run_command('work')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-c", start], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    err = process.communicate(timeout=10)[1]
    said = "" if place == "before the command" else f"stopped by {number.name}; the same command starts over\n"
    assert (process.returncode, err) == (code, said)


def test_any_name_is_printed_whatever_the_terminal_can_show(toy_script):
    code = toy_script.read_text().replace("sleep(30)", "sleep(0)")
    code = code.replace('"ready", flush=True', r'"F\u00e4che \udcff"')
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (process.returncode, process.stdout.splitlines()[0]) == (0, r"F\xe4che \udcff")


def test_log_lines_and_errors_stay_within_their_lines(capfd):
    def work(settings):
        logging.getLogger("geocore").info("%s: 3 bands", "a\nerror: forged\x1b[2J.tif")
        raise DataError("b\x1b]0;title\x07\udcff.tif: no")

    assert leave(work) == 2
    first, second = capfd.readouterr().err.splitlines()
    assert (
        first.endswith(r" a\nerror: forged\x1b[2J.tif: 3 bands") and second == r"error: b\x1b]0;title\x07\udcff.tif: no"
    )


def test_logging_is_plain_without_a_terminal_and_quiet_on_other_ranks(capsys, monkeypatch):
    def talk(settings):
        logging.getLogger("geocore.jobs.runner").info("three of [bold]four[/bold]")
        logging.getLogger("matplotlib").info("chatter")

    leave(talk)
    err = capsys.readouterr().err
    assert err.endswith(" three of [bold]four[/bold]\n") and "chatter" not in err
    monkeypatch.setenv("RANK", "1")
    leave(talk)
    assert capsys.readouterr().err == ""


class Clock:
    """Takes the place of the module `time` in `geocore.terminal`."""

    seconds = 0.0

    def monotonic(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_progress_prints_a_plain_line_every_few_seconds(clock, capsys):
    with progress_module.Progress(10, "training") as bar:
        for _ in range(10):
            clock.seconds += 2
            bar.advance(note="loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 3/10, 6 s, loss 0.5"
    assert lines[-1] == "training: 10/10, 20 s, loss 0.5"
    assert len(lines) == 4


def test_progress_that_is_often_short_draws_no_bar_before_its_time(clock, monkeypatch):
    drawn = []
    monkeypatch.setattr(progress_module, "on_terminal", lambda: True)
    monkeypatch.setattr(progress_module.Progress, "_draw", lambda bar: drawn.append(clock.seconds))
    with progress_module.Progress(5, "tiles", delay=1.0) as bar:
        for _ in range(3):
            clock.seconds += 0.4
            bar.advance()
    assert drawn == [pytest.approx(1.2)]
    with progress_module.Progress(5, "tiles"):
        assert len(drawn) == 2


def test_progress_is_left_to_the_command_by_its_workers(clock, monkeypatch, capsys):
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    with progress_module.Progress(2, "tiles") as bar:
        clock.seconds += 60
        bar.advance()
    assert capsys.readouterr().err == ""


def test_progress_over_quick_work_says_nothing_and_yields_everything(capsys):
    assert list(progress([1, 2, 3], "reading")) == [1, 2, 3]
    assert list(progress((n for n in "ab"), "reading")) == ["a", "b"]
    assert list(progress(3, "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_nests_and_leaves_the_screen_clean(monkeypatch):
    from rich.console import Console

    screen = io.StringIO()
    progress_module._bars.cache_clear()
    monkeypatch.setattr(progress_module, "console", lambda: Console(file=screen, force_terminal=True, width=80))
    monkeypatch.setattr(progress_module, "on_terminal", lambda: True)
    for _ in progress([1, 2], "outer"):
        list(progress([1], "inner"))
    assert progress_module._bars().finished
    assert "outer" in screen.getvalue()
    progress_module._bars.cache_clear()


def test_a_reader_that_leaves_early_is_no_traceback(toy_script):
    code = "import sys; from geocore.cli.main import command; from geocore.settings import Settings\n"
    code += "def flood(settings):\n    while True: print('x' * 1000)\ncommand(flood, Settings, prog='flood', argv=[])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_environment_rank_decides_who_talks(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert progress_module.is_main_rank()
    monkeypatch.setenv("RANK", "3")
    assert not progress_module.is_main_rank()
    assert os.environ["RANK"] == "3"
