"""Medians, verdicts and the page come from fixed numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocore_bench.environments import OURS
from geocore_bench.goals import GOALS, Goal, Verdict, judge
from geocore_bench.harness import BENCHMARKS, Case, Contender, Measured, load
from geocore_bench.plots import plot
from geocore_bench.results import machine, page
from geocore_bench.rounds import Record
from geocore_bench.summary import Line, Table, summarise


def case(*, more: bool = True, agree: dict[str, float] | None = None) -> Case:
    def measure(setting: object, data: Path) -> Measured:
        raise AssertionError

    contenders = tuple(Contender(name, OURS if name == "ours" else "peers", measure) for name in ("ours", "a", "b"))
    return Case("case", "things/s", None, contenders, more_is_better=more, agree=agree or {})


def runs(contender: str, *values: float, **details: float) -> list[Record]:
    return [{"contender": contender, "value": value, "details": details} for value in values]


def table(**values: float) -> Table:
    lines = tuple(Line(name, "peers", (value,), {"growth_mb": 10 * value}) for name, value in values.items())
    return Table("bench", "case", "things/s", True, lines)


def test_a_line_holds_the_median_and_all_values() -> None:
    records = [*runs("ours", 3.0, 1.0, 5.0, 2.0, 4.0, cpu_s=7.0), *runs("a", 1.0, 2.0)]
    summary = summarise("bench", case(), records)
    ours, peer, absent = summary.lines
    assert (ours.median, ours.values, ours.details) == (3.0, (3.0, 1.0, 5.0, 2.0, 4.0), {"cpu_s": 7.0})
    assert peer.median == 1.5
    assert absent.values == ()
    assert absent.figure("value") is None


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=9))
def test_the_median_lies_among_the_values(values: list[float]) -> None:
    line = summarise("bench", case(), runs("ours", *values)).lines[0]
    assert min(values) <= line.median <= max(values)


def test_a_contender_with_another_result_has_no_value() -> None:
    records = [*runs("ours", 1.0, share=0.5), *runs("a", 9.0, share=0.5009), *runs("b", 99.0, share=0.52)]
    summary = summarise("bench", case(agree={"share": 0.001}), records)
    assert [len(line.values) for line in summary.lines] == [1, 1, 0]
    assert summary.lines[2].note == "another result: share is 0.52, geocore's 0.5"


def test_what_a_contender_does_not_report_is_not_compared() -> None:
    records = [*runs("ours", 1.0, share=0.5), *runs("a", 9.0)]
    assert summarise("bench", case(agree={"share": 0.0}), records).lines[1].values == (9.0,)


def test_a_failure_is_noted_and_earlier_runs_count() -> None:
    records: list[Record] = [*runs("ours", 1.0), *runs("a", 2.0), {"contender": "a", "failed": "no memory"}]
    line = summarise("bench", case(), records).lines[1]
    assert (line.values, line.note) == ((2.0,), "failed: no memory")


def test_a_ratio_is_to_the_best_peer() -> None:
    goal = Goal("rate", "bench", "case", "ours", 2.0, ("a", "b", "missing"))
    verdict = judge(goal, [table(ours=9.0, a=3.0, b=4.0, faster=100.0)])
    assert (verdict.measured, verdict.against, verdict.met) == (2.25, "b", True)
    assert verdict.share == pytest.approx(1.125)


def test_a_ratio_of_seconds_is_turned_round() -> None:
    goal = Goal("time", "bench", "case", "ours", 2.0, ("a", "b"))
    verdict = judge(goal, [replace(table(ours=2.0, a=3.0, b=5.0), more_is_better=False)])
    assert (verdict.measured, verdict.against, verdict.met) == (1.5, "a", False)


def test_memory_is_less_is_better_where_the_rate_is_more() -> None:
    goal = Goal("memory", "bench", "case", "ours", 8.0, ("a", "b"), figure="growth_mb", more_is_better=False)
    verdict = judge(goal, [table(ours=1.0, a=9.0, b=8.5)])
    assert (verdict.measured, verdict.against, verdict.met) == (8.5, "b", True)


def test_a_figure_that_a_peer_lacks_is_its_value() -> None:
    goal = Goal("own rate", "bench", "case", "ours", 0.95, ("a",), figure="tile_mpx_s")
    lines = (Line("ours", OURS, (1.0,), {"tile_mpx_s": 1.9}), Line("a", OURS, (2.0,), {}))
    assert judge(goal, [Table("bench", "case", "Mpx/s", True, lines)]).measured == pytest.approx(0.95)


@pytest.mark.parametrize(("bound", "met"), [(7.0, True), (4.0, False)])
def test_a_difference_is_to_the_peer_and_at_most_the_bound(bound: float, met: bool) -> None:
    goal = Goal("more", "bench", "case", "ours", bound, ("a",), kind="difference", unit="us")
    verdict = judge(goal, [replace(table(ours=15.0, a=10.0), more_is_better=False)])
    assert (verdict.measured, verdict.met) == (5.0, met)


def test_a_loop_below_the_bare_one_has_no_share() -> None:
    goal = Goal("more", "bench", "case", "ours", 50.0, ("a",), kind="difference", unit="us")
    verdict = judge(goal, [replace(table(ours=8.0, a=10.0), more_is_better=False)])
    assert (verdict.met, verdict.share) == (True, None)


@pytest.mark.parametrize(("bound", "met"), [(30.0, True), (29.0, False)])
def test_a_limit_needs_no_peer(bound: float, met: bool) -> None:
    goal = Goal("memory", "bench", "case", "ours", bound, figure="growth_mb", kind="limit", unit="MiB")
    assert judge(goal, [table(ours=3.0)]).met is met


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    goal = Goal("rate", "bench", "case", "ours", 2.0, ("a",))
    assert judge(goal, []).met is None
    assert judge(goal, [table(a=1.0)]).met is None
    assert judge(goal, [table(ours=1.0)]).reason == "no peer was measured"
    broken = Table("bench", "case", "s", True, (Line("ours", OURS, (), {}, "failed: no memory"),))
    assert judge(goal, [broken]).reason == "failed: no memory"


def test_the_figures_behind_a_verdict_are_named() -> None:
    because = (("ours", "growth_mb"), ("ours", "cpu_s"), ("a", "value"))
    goal = Goal("rate", "bench", "case", "ours", 2.0, ("a",), because=because)
    assert judge(goal, [table(ours=3.0, a=1.0)]).reason == "ours: growth_mb 30, cpu_s -; a: value 1"


def test_every_goal_is_about_contenders_that_exist() -> None:
    cases = {(name, one.name): one for name in BENCHMARKS for one in load(name).cases(False)}
    for goal in GOALS:
        names = {contender.name for contender in cases[goal.benchmark, goal.case].contenders}
        assert {goal.ours, *goal.peers, *(contender for contender, _ in goal.because)} <= names, goal.text
        assert goal.peers or goal.kind == "limit"
        assert goal.unit or goal.kind == "ratio"


def test_the_page_shows_goals_values_and_versions() -> None:
    goals = [
        Goal("rate", "bench", "case", "ours", 2.0, ("a",)),
        Goal("memory", "bench", "case", "ours", 20.0, figure="growth_mb", kind="limit", unit="MiB"),
        Goal("elsewhere", "other", "case", "ours", 2.0, ("a",)),
    ]
    tables = [table(ours=3.0, a=1.0)]
    text = page(
        [judge(goal, tables) for goal in goals],
        tables,
        {"peers": {"python": "3.11.7", "torch": "2.13.0"}},
        machine="two cores",
        date="2026-11-21",
        minutes=71.6,
        quick=False,
    )
    lines = text.splitlines()
    assert "2026-11-21; two cores; 72 minutes." in lines
    assert "## Goals: 1 reached, 1 not, 1 not measured" in lines
    assert "| rate | 2x | 3x | a | yes |  |" in lines
    assert "| memory | at most 20 MiB | 30 MiB |  | **no** |  |" in lines
    assert "| elsewhere | 2x | - |  | - | not run |" in lines
    assert "| a | 1 (1-1) | 1 | 0.333 |  | 10 |  |" in lines
    assert "| peers | python 3.11.7, torch 2.13.0 |" in lines
    assert "quick" not in text


def test_a_quick_pass_says_that_it_is_one() -> None:
    text = page([], [], {}, machine="two cores", date="2026-11-21", minutes=1, quick=True)
    assert "shows that everything runs, and nothing of speed" in text


def test_the_machine_is_described() -> None:
    assert "cores" in machine()
    assert "GiB" in machine()


def test_the_plot_draws_what_was_measured(tmp_path: Path) -> None:
    goal = Goal("rate", "bench", "case", "ours", 2.0, ("a",))
    plot([Verdict(goal, 3.0, "a"), Verdict(goal, 0.5, "a"), Verdict(goal, None)], tmp_path / "results.png")
    plot([], tmp_path / "empty.png")
    for name in ("results.png", "empty.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
