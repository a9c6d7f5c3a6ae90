"""Rules that say which patch is for what, as YAML files.

    rules:
      - year: 2019
        target: train
      - year: 2020
        tile: [31TCF, 31TCG]
        rules:
          - patch_x: {max: 14}
            target: test
          - target:
              - {target: val, split: 0.5}
              - {target: test}

A patch goes by the first rule of a list that it matches, and stays out where it matches none. A rule has filters, all
of which must hold, and exactly one of `target`, `rules` (looked at in turn, for its own patches) and
`assert_none: true` (no patch may come here). A filter is a value, a list of values, or
`{in: [...], min: ..., max: ...}`, ends included.
Shares of a target are drawn; a target without a share has an equal part of what the others leave, and what no target
takes stays out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crops_activesampling.definitions import read_definition
from crops_activesampling.s4a_format import PatchName
from geocore.errors import DataError, SettingsError

SPLITS: Final = ("train", "val", "test")

_TYPES: Final[Mapping[str, type]] = {"year": int, "tile": str, "patch_x": int, "patch_y": int, "path": str}
_OUTCOMES: Final = ("target", "rules", "assert_none")
_ROUNDING: Final = 1e-9
"""By which a sum of shares such as 0.8 + 0.1 + 0.1 may exceed 1."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What one property of a patch has to be."""

    field: str
    """One of year, tile, patch_x, patch_y, path."""
    members: frozenset[Any] | None
    """Values it may have; None: any."""
    minimum: Any
    """Smallest one, or first in the alphabet; None: any."""
    maximum: Any
    """Largest one; None: any."""

    def accepts(self, name: PatchName) -> bool:
        """Whether a patch has such a value."""
        value = _properties(name)[self.field]
        return (
            (self.members is None or value in self.members)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its filters; exactly one of shares, rules and assert_none decides."""

    place: str
    """Where it stands in the file."""
    filters: tuple[Filter, ...]
    shares: tuple[tuple[str, float], ...] = ()
    """Split and share of the patches of this rule, 0-1."""
    rules: tuple[Rule, ...] = ()
    """Rules for the patches of this one."""
    assert_none: bool = False
    """No patch may come here."""

    def assign(self, names: Sequence[PatchName], seed: int) -> dict[PatchName, str]:
        """Splits of the patches that came to this rule and are not left out.

        Raises:
            DataError: a patch came to a rule that must have none.
        """
        if self.assert_none and names:
            raise DataError(
                f"{self.place}.assert_none: {len(names)} patches come here, such as {min(names).id}: no patch may; add "
                "a rule for them before it"
            )
        if self.rules:
            return _by_first_match(self.rules, names, seed)
        order = drawn_order(names, f"share/{seed}")
        splits: dict[PatchName, str] = {}
        first, sum_of_shares = 0, 0.0
        for split, share in self.shares:
            sum_of_shares += share
            # Rounded up from a half: ends of parts, not their sizes, so that no patch gets lost in between.
            stop = min(len(order), int(sum_of_shares * len(order) + 0.5 + _ROUNDING))
            splits |= dict.fromkeys(order[first:stop], split)
            first = max(first, stop)
        return splits


@dataclass(frozen=True, slots=True)
class SplitRules:
    """The rules of a file."""

    name: str
    """Of the packaged rules, or of the file without its suffix."""
    rules: tuple[Rule, ...]

    def assign(self, names: Sequence[PatchName], seed: int) -> dict[PatchName, str]:
        """Split of each patch that is used, in the order of their names.

        The result depends on the names and the seed alone, not on the order of the names.

        Raises:
            DataError: a patch came to a rule that must have none.
        """
        splits = _by_first_match(self.rules, names, seed)
        return {name: splits[name] for name in sorted(splits)}


def read_rules(name: str) -> SplitRules:
    """Packaged rules by their name, or those of a file by its path.

    Raises:
        SettingsError: there are none, they are not YAML, or break the grammar; the message says where.
    """
    title, content = read_definition("splits", name)
    unknown = [str(key) for key in content if key != "rules"]
    if unknown:
        raise SettingsError(f"split rules {title}: unknown key {', '.join(unknown)}: a file has rules; remove it")
    return SplitRules(title, _rules(content.get("rules"), f"split rules {title}: rules"))


def drawn_order(names: Collection[PatchName], key: str) -> list[PatchName]:
    """Patches in an order that a key draws, the same on any machine and in any order of the names."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{key}/{name.id}".encode()).digest())


def _by_first_match(rules: Sequence[Rule], names: Sequence[PatchName], seed: int) -> dict[PatchName, str]:
    splits: dict[PatchName, str] = {}
    rest = list(names)
    for rule in rules:
        matching = {name for name in rest if all(each.accepts(name) for each in rule.filters)}
        splits |= rule.assign(sorted(matching), seed)
        rest = [name for name in rest if name not in matching]
    return splits


def _properties(name: PatchName) -> dict[str, Any]:
    return {"year": name.year, "tile": name.tile, "patch_x": name.x, "patch_y": name.y, "path": name.relative}


def _rules(given: Any, place: str) -> tuple[Rule, ...]:
    if not isinstance(given, list) or not given:
        raise SettingsError(f"{place} is no list with a rule: list at least one")
    return tuple(_rule(entry, f"{place}[{index}]") for index, entry in enumerate(given))


def _rule(given: Any, place: str) -> Rule:
    if not isinstance(given, dict):
        raise SettingsError(f"{place} {given!r}: a rule is a mapping, such as 'year: 2019' and 'target: train'")
    if "stratify_on" in given:
        raise SettingsError(f"{place}.stratify_on: is not supported: leave it out, shares are then drawn at random")
    unknown = [str(key) for key in given if key not in (*_TYPES, *_OUTCOMES)]
    if unknown:
        known = ", ".join((*_TYPES, *_OUTCOMES))
        raise SettingsError(f"{place}: unknown key {', '.join(unknown)}: a rule has {known}; correct or remove it")
    outcomes = [key for key in _OUTCOMES if key in given]
    if len(outcomes) != 1:
        held = " and ".join(outcomes) or "none of them"
        raise SettingsError(f"{place} has {held}: a rule has exactly one of {', '.join(_OUTCOMES)}; correct it")
    filters = tuple(_filter(key, given[key], f"{place}.{key}") for key in _TYPES if key in given)
    if "rules" in given:
        return Rule(place, filters, rules=_rules(given["rules"], f"{place}.rules"))
    if "target" in given:
        return Rule(place, filters, shares=_shares(given["target"], f"{place}.target"))
    if given["assert_none"] is not True:
        raise SettingsError(f"{place}.assert_none {given['assert_none']!r}: must be true; else leave the rule out")
    return Rule(place, filters, assert_none=True)


def _filter(field: str, given: Any, place: str) -> Filter:
    if not isinstance(given, dict):
        return Filter(field, _members(field, given, place), None, None)
    unknown = [str(key) for key in given if key not in ("in", "min", "max")]
    if unknown or not given:
        raise SettingsError(f"{place}: unknown key {', '.join(unknown) or '(none)'}: a filter has in, min or max")
    members = _members(field, given["in"], f"{place}.in") if "in" in given else None
    ends = [_value(field, given[key], f"{place}.{key}") if key in given else None for key in ("min", "max")]
    return Filter(field, members, *ends)


def _members(field: str, given: Any, place: str) -> frozenset[Any]:
    return frozenset(_value(field, value, place) for value in (given if isinstance(given, list) else [given]))


def _value(field: str, given: Any, place: str) -> Any:
    wanted = _TYPES[field]
    if not isinstance(given, wanted) or isinstance(given, bool):
        kind = "a whole number" if wanted is int else "text, in quotes where it looks like a number"
        raise SettingsError(f"{place} {given!r}: {field} is {kind}; correct it")
    return given


def _shares(given: Any, place: str) -> tuple[tuple[str, float], ...]:
    """Splits with their shares; those that give none have equal parts of the rest."""
    if isinstance(given, str):
        return ((_split(given, place), 1.0),)
    if not isinstance(given, list) or not given:
        raise SettingsError(f"{place} {given!r}: give a split, or a list such as [{{target: val, split: 0.5}}, ...]")
    found: list[tuple[str, float | None]] = []
    for index, entry in enumerate(given):
        where = f"{place}[{index}]"
        if not isinstance(entry, dict) or "target" not in entry or set(entry) - {"target", "split"}:
            raise SettingsError(f"{where} {entry!r}: has the keys target and split; correct it")
        share = entry.get("split")
        if share is not None and (isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1):
            raise SettingsError(f"{where}.split {share!r}: a share is above 0, at most 1; correct it")
        found.append((_split(entry["target"], where), share))
    if len({split for split, _ in found}) < len(found):
        raise SettingsError(f"{place}: a split occurs more than once: name each once, with its whole share")
    stated = sum(share for _, share in found if share is not None)
    if stated > 1 + _ROUNDING:
        raise SettingsError(f"{place}: shares add up to {stated:g}: must be at most 1; lower them")
    open_splits = sum(share is None for _, share in found)
    if open_splits and stated >= 1 - _ROUNDING:
        raise SettingsError(
            f"{place}: shares add up to {stated:g}: nothing is left for a split without one; lower them"
        )
    return tuple((split, (1.0 - stated) / open_splits if share is None else float(share)) for split, share in found)


def _split(given: Any, place: str) -> str:
    if given not in SPLITS:
        raise SettingsError(f"{place} {given!r}: splits are {', '.join(SPLITS)}; name one of these")
    return str(given)
