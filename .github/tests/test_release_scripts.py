"""Which packages a change selects, and which tags may be released."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changed_packages import changed_files, packages_to_test
from release_package import released_package
from workspace import closure, dependents, packages

PROJECT = (
    '[project]\nname = "{name}"\nversion = "{version}"\ndependencies = {needs}\n[dependency-groups]\ntest = {tests}\n'
)


@pytest.fixture
def root(tmp_path):
    """A workspace with a library, a support package for tests, and two tasks."""
    layout = {
        "core": ("geocore", "0.2.0", ["numpy>=2"], ["geocore-synthetic", "pytest>=8"]),
        "packages/geocore-synthetic": ("geocore-synthetic", "0.1.0", ["numpy>=2"], []),
        "tasks/snowpack-sam2": ("snowpack-sam2", "1.0.0", ["geocore[x]>=0.1,<0.3", "geocore-synthetic"], []),
        "tasks/floods-prithvi": ("floods-prithvi", "0.1.0rc1", ["geocore"], [{"include-group": "test"}]),
    }
    (tmp_path / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["core", "tasks/*", "packages/*"]\n')
    for folder, (name, version, needs, tests) in layout.items():
        (tmp_path / folder).mkdir(parents=True)
        groups = json.dumps(tests).replace('"include-group":', "include-group =")
        text = PROJECT.format(name=name, version=version, needs=json.dumps(needs), tests=groups)
        (tmp_path / folder / "pyproject.toml").write_text(text)
        (tmp_path / folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## {version} (2026-01-01)\n")
    return tmp_path


def test_packages_and_their_dependencies_are_found(root):
    members = packages(root)
    assert list(members) == ["geocore", "floods-prithvi", "snowpack-sam2", "geocore-synthetic"]
    assert members["geocore"].runtime == set()
    assert members["geocore"].tests == {"geocore-synthetic"}
    assert members["snowpack-sam2"].runtime == {"geocore", "geocore-synthetic"}
    assert members["snowpack-sam2"].module == "snowpack_sam2"


def test_closure_holds_what_the_tests_need_and_not_what_a_dependencys_tests_need(root):
    members = packages(root)
    assert closure("geocore", members) == ["geocore", "geocore-synthetic"]
    assert set(closure("snowpack-sam2", members)) == {"snowpack-sam2", "geocore", "geocore-synthetic"}
    assert closure("floods-prithvi", members) == ["floods-prithvi", "geocore"]


@pytest.mark.parametrize(
    ("files", "selected"),
    [
        ([], []),
        (["tasks/snowpack-sam2/src/snowpack_sam2/train.py"], ["snowpack-sam2"]),
        (["tasks/snowpack-sam2/README.md"], ["snowpack-sam2"]),
        (["core/src/geocore/tiles.py"], ["floods-prithvi", "geocore", "snowpack-sam2"]),
        (["packages/geocore-synthetic/pyproject.toml"], ["geocore", "geocore-synthetic", "snowpack-sam2"]),
        (["README.md", "CONTRIBUTING.md", ".github/CODEOWNERS"], []),
        (["README.md", "tasks/floods-prithvi/tests/test_data.py"], ["floods-prithvi"]),
    ],
)
def test_a_change_selects_packages_and_their_dependents(root, files, selected):
    assert packages_to_test(files, packages(root)) == selected


@pytest.mark.parametrize(
    "file",
    ["uv.lock", "pyproject.toml", "noxfile.py", ".github/workflows/ci.yml", ".ci/run", "tasks/removed/pyproject.toml"],
)
def test_a_file_outside_every_package_selects_all(root, file):
    members = packages(root)
    assert packages_to_test([file], members) == sorted(members)


def test_dependents_follow_chains(root):
    members = packages(root)
    assert dependents({"geocore-synthetic"}, members) == {"geocore-synthetic", "geocore", "snowpack-sam2"}


def test_a_moved_file_touches_both_places_and_the_base_is_the_merge_base(root):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)

    (root / "core/old name.txt").write_text("the same content\n" * 20)
    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "start")
    git("checkout", "-b", "change")
    git("mv", "core/old name.txt", "tasks/floods-prithvi/new.txt")
    git("commit", "-m", "move")
    git("checkout", "main")
    (root / "README.md").write_text("later on main\n")
    git("add", ".")
    git("commit", "-m", "later")
    assert sorted(changed_files("main", "change", root)) == ["core/old name.txt", "tasks/floods-prithvi/new.txt"]


def test_a_right_tag_names_its_package(root):
    members = packages(root)
    assert released_package("snowpack-sam2-v1.0.0", members, root) == "snowpack-sam2"
    assert released_package("floods-prithvi-v0.1.0rc1", members, root) == "floods-prithvi"


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("v1.0.0", "a release tag is"),
        ("snowpack-sam2-1.0.0", "a release tag is"),
        ("snowpack-v1.0.0", "no package snowpack;"),
        ("snowpack-sam2-v1.0.1", "says 1.0.0"),
        ("", "a release tag is"),
    ],
)
def test_a_wrong_tag_is_refused_with_its_reason(root, tag, said):
    with pytest.raises(ValueError, match=said):
        released_package(tag, packages(root), root)


def test_a_release_without_changelog_is_refused(root):
    (root / "core/CHANGELOG.md").write_text("# Changelog\n")
    with pytest.raises(ValueError, match="no heading '## 0.2.0'"):
        released_package("geocore-v0.2.0", packages(root), root)


def test_the_scripts_run_as_the_workflows_call_them():
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, folder / "changed_packages.py", "--all"], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == sorted(packages())
    refused = subprocess.run([sys.executable, folder / "release_package.py", "v1"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: v1: ")
