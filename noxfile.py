"""Every check of the workspace: `uv run nox` runs them all, `uv run nox -t PACKAGE` those of one package.

`nox -l` lists the sessions. The packages are found, not listed: a new folder under tasks/ or packages/ is tested as
soon as it has a pyproject.toml. Tests run with the Python that nox runs with: `uv run --python 3.12 nox` tries another.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / ".github"))

from workspace import Package, closure, packages  # noqa: E402  # lies in a folder that has to be put on the path first

nox.needs_version = ">=2026.7"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # only `newest` can miss one, and says so

MEMBERS = packages(ROOT)
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
NEWEST = "3.13"

# The lock must not depend on wheels that lie on one machine, nor a build on the caller's environment.
UV_ENV = {"UV_FIND_LINKS": None, "VIRTUAL_ENV": None}
# Small tensors: more threads than cores slow the suites down several times.
TEST_ENV = {
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1))),
    "PYTHONDONTWRITEBYTECODE": None,  # the suites start many processes, and each would compile torch again
    "PYTHONPATH": None,
}


def _each_package() -> nox.parametrize:
    return nox.parametrize("package", [nox.param(name, id=name, tags=[name]) for name in MEMBERS])


def _install(session: nox.Session, package: Package) -> None:
    """Install a package as its users get it: built wheels by path, and the locked third-party packages it declares."""
    environment = {**UV_ENV, "UV_PROJECT_ENVIRONMENT": session.virtualenv.location}
    options = ["--locked", "--exact", "--no-default-groups", "--group", "test", "--no-install-workspace"]
    session.run_install("uv", "sync", "--quiet", *options, "--package", package.name, env=environment, external=True)
    wheels = Path(session.create_tmp()) / "wheels"
    for wheel in wheels.glob("*.whl"):
        wheel.unlink()
    names = closure(package.name, MEMBERS)
    for name in names:
        build = ["uv", "build", "--quiet", "--wheel", "--no-sources", "--package", name, "--out-dir", str(wheels)]
        session.run_install(*build, env=UV_ENV, external=True)
    built = sorted(map(str, wheels.glob("*.whl")))
    if len(built) != len(names):
        session.error(f"{len(names)} wheels were to be built, but there are {len(built)}: {built}")
    python = str(Path(session.bin) / "python")
    session.run_install("uv", "pip", "install", "--python", python, "--no-deps", *built, env=UV_ENV, external=True)
    session.run("uv", "pip", "check", "--python", python, env=UV_ENV, external=True)


def _suite(session: nox.Session, package: Package) -> None:
    tests = ROOT / package.folder / "tests"
    if not tests.is_dir():
        session.error(f"{package.folder} has no folder tests")
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT / package.folder), "-p", "no:cacheprovider"]
    # Away from the tree, so that nothing is imported or read from it by chance.
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        session.run("pytest", *settings, str(tests), *session.posargs, env=TEST_ENV)


def _tool(session: nox.Session, *command: str) -> None:
    """Run a tool of the root's dev group, in the environment that holds every package."""
    session.run("uv", "run", "--quiet", "--locked", *command, env={"UV_FIND_LINKS": None}, external=True)


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Check that uv.lock matches the pyproject.toml files."""
    session.run("uv", "lock", "--check", env={"UV_FIND_LINKS": None}, external=True)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style and formatting of the code, and form and safety of the workflows."""
    _tool(session, "ruff", "check", ".")
    _tool(session, "ruff", "format", "--check", ".")
    workflows = [str(path) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))]
    actions = ["uv", "run", "--quiet", "--locked", "--isolated", "--only-group", "actions"]
    env = {"UV_FIND_LINKS": None}
    schema = ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"]
    session.run(*actions, *schema, *workflows, env=env, external=True)
    session.run(*actions, "zizmor", "--offline", "--quiet", *workflows, env=env, external=True)


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check the types of every package's source with mypy, strictly."""
    _tool(session, "mypy", *(str(member.folder / "src") for member in MEMBERS.values()))


@nox.session(venv_backend="none")
def imports(session: nox.Session) -> None:
    """Check which module may import which: the layers of geocore, and no task another task."""
    _tool(session, "lint-imports", "--no-cache")
    # The tasks are found, so that a new one is held to the rules without an edit here.
    tasks = {name: member.module for name, member in MEMBERS.items() if member.folder.parts[0] == "tasks"}
    modules = [member.module for member in MEMBERS.values()]
    # What depends on tasks, to try their commands, is no library.
    above = {name for name, member in MEMBERS.items() if member.runtime & set(tasks)}
    libraries = [member.module for name, member in MEMBERS.items() if name not in tasks and name not in above]
    contracts = [("libraries know no task", "forbidden", {"source": libraries, "forbidden": list(tasks.values())})]
    if len(tasks) > 1:
        contracts.append(("tasks are independent", "independence", {"": list(tasks.values())}))
    lines = ["[importlinter]", "root_packages =", *(f"    {module}" for module in modules)]
    for number, (name, kind, lists) in enumerate(contracts):
        lines += [f"[importlinter:contract:{number}]", f"name = {name}", f"type = {kind}"]
        for role, members in lists.items():
            lines += [f"{role}_modules =".lstrip("_"), *(f"    {module}" for module in members)]
    config = Path(session.create_tmp()) / "tasks.ini"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _tool(session, "lint-imports", "--no-cache", "--config", str(config))


@nox.session(venv_backend="none")
def workspace(session: nox.Session) -> None:
    """Check the workspace itself: same files and verbs in every task, links, scripts of the workflows."""
    _tool(session, "pytest", "-p", "no:cacheprovider", ".github/tests", *session.posargs)


@nox.session(python=PYTHON)
@_each_package()
def tests(session: nox.Session, package: str) -> None:
    """Run one package's suite from built wheels, in an environment that holds what it declares and no more."""
    _install(session, MEMBERS[package])
    _suite(session, MEMBERS[package])


@nox.session(python=NEWEST)
def newest(session: nox.Session) -> None:
    """Run geocore's suite on the newest Python, for which the lock holds other versions of rasterio and numpy."""
    if PYTHON == NEWEST:
        session.skip(f"the tests session ran on {NEWEST} already")
    _install(session, MEMBERS["geocore"])
    _suite(session, MEMBERS["geocore"])


@nox.session(python="3.12", default=False)
def parity(session: nox.Session) -> None:
    """Compare floods-prithvi's backbones with those of terratorch, which lives in an environment of its own."""
    wheels = Path(session.create_tmp()) / "wheels"
    for name in closure("floods-prithvi", MEMBERS):
        build = ["uv", "build", "--quiet", "--wheel", "--no-sources", "--package", name, "--out-dir", str(wheels)]
        session.run_install(*build, env=UV_ENV, external=True)
    python = str(Path(session.bin) / "python")
    needs = ["terratorch==1.2.13", "geocore[polygons]", "floods-prithvi", "pytest"]
    install = ["uv", "pip", "install", "--quiet", "--python", python, "--find-links", str(wheels), *needs]
    session.run_install(*install, env=UV_ENV, external=True)
    test = ROOT / MEMBERS["floods-prithvi"].folder / "tests" / "test_parity.py"
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(test.parents[1]), "-p", "no:cacheprovider"]
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        session.run("pytest", *settings, "-m", "parity", str(test), *session.posargs, env=TEST_ENV)


@nox.session(venv_backend="none", default=False)
def bench(session: nox.Session) -> None:
    """Measure geocore beside its peers; `-- NAME ...` some of it, `-- --quick` only whether everything runs."""
    home = Path(os.environ.get("GEOCORE_BENCH", ROOT / ".nox" / "bench")).resolve()
    ours = home / "environments" / "geocore"
    python = str(ours / "bin" / "python")
    # Kept between sessions, beside the peers' environments: hard links, so that torch lies on the disk once.
    environment = {**UV_ENV, "UV_PROJECT_ENVIRONMENT": str(ours), "UV_LINK_MODE": "hardlink"}
    options = ["--locked", "--exact", "--no-default-groups", "--no-install-workspace", "--all-packages"]
    session.run("uv", "sync", "--quiet", "--python", "3.11", *options, env=environment, external=True)
    with tempfile.TemporaryDirectory() as wheels:
        for name in MEMBERS:
            build = ["uv", "build", "--quiet", "--wheel", "--no-sources", "--package", name, "--out-dir", wheels]
            session.run(*build, env=UV_ENV, external=True)
        built = sorted(map(str, Path(wheels).glob("*.whl")))
        install = ["uv", "pip", "install", "--python", python, "--no-deps", "--compile-bytecode", *built]
        session.run(*install, env=UV_ENV, external=True)
    # What is published is a whole session; a part of one goes beside its data.
    out = home / "results" if session.posargs else ROOT / MEMBERS["geocore-bench"].folder
    folders = ["--environments", str(home / "environments"), "--data", str(home / "data"), "--out", str(out)]
    session.run(python, "-m", "geocore_bench", *folders, *session.posargs, external=True)


@nox.session(python=PYTHON, default=False)
def faults(session: nox.Session) -> None:
    """Kill, starve and damage every command of every task; `-- TASK ... --minutes N --seed N` for a part."""
    _trials(session, "faults")


@nox.session(python=PYTHON, default=False)
def fuzz(session: nox.Session) -> None:
    """Read thousands of mutated files of every format; `-- FORMAT ... --minutes N --seed N` for a part."""
    _trials(session, "fuzz")


def _trials(session: nox.Session, name: str) -> None:
    """Run a session of geocore-trials; what is published is a whole one, anything else lies beside the environment."""
    package = MEMBERS["geocore-trials"]
    _install(session, package)
    # Absolute: the session runs in a folder that goes with it.
    out = (Path(session.create_tmp()) / "results").resolve() if session.posargs else ROOT / package.folder
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        environment = TEST_ENV | {"OMP_NUM_THREADS": "1"}
        session.run("geocore-trials", name, "--out", str(out), *session.posargs, env=environment)
