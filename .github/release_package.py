"""Check that a tag `P-vX.Y.Z` may be released and print the package's name.

    python .github/release_package.py snowpack-sam2-v0.2.0

The tag, the version in the package's pyproject.toml and a heading of its changelog have to agree.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from workspace import ROOT, Package, packages


def released_package(tag: str, members: dict[str, Package], root: Path = ROOT) -> str:
    """Name the package that a tag releases.

    Raises:
        ValueError: The tag has another form, names no package, or disagrees with the package's version or changelog.
    """
    match = re.fullmatch(r"(?P<name>[a-z0-9-]+)-v(?P<version>\d+\.\d+\.\d+((a|b|rc)\d+)?)", tag)
    if match is None:
        raise ValueError(f"{tag}: a release tag is PACKAGE-vX.Y.Z")
    name, version = match["name"], match["version"]
    if name not in members:
        raise ValueError(f"{tag}: no package {name}; there are {', '.join(sorted(members))}")
    package = members[name]
    if package.version != version:
        raise ValueError(f"{tag}: {package.folder}/pyproject.toml says {package.version}; set one to the other")
    changelog = (root / package.folder / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)}\b", changelog, flags=re.MULTILINE):
        raise ValueError(f"{tag}: {package.folder}/CHANGELOG.md has no heading '## {version}'; write what changed")
    return name


if __name__ == "__main__":
    try:
        print(released_package(sys.argv[1] if len(sys.argv) > 1 else "", packages()))
    except ValueError as error:
        sys.exit(f"error: {error}")
