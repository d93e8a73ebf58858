"""The key of a node, and the result under it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from msgspec import structs

from olivebuild.cache.traces import Trace
from olivebuild.planner.plan import Planner
from olivebuild.planner.states import Lookup, Verdict
from olivebuild.planner.trace_lookup import (
    COUNTS_UNTIL,
    DAY,
    MADE_AT,
    ONLY_FOR,
    TraceFinder,
    carried_on,
)
from tests.support.sites import NEW, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def look_up_all(site: Site) -> dict[str, Lookup]:
    planner, lookups = site.planner(), dict[str, Lookup]()
    finder = TraceFinder(
        graph=planner.graph,
        scan=planner.scan,
        traces=planner.traces,
        workspace=planner.workspace,
        dating=planner.dating,
    )
    for name, node in planner.graph.nodes.items():
        lookups[name] = finder.look_up(node, lookups)
    planner.traces.close()
    return lookups


def test_a_node_without_its_inputs_has_no_key(site: Site) -> None:
    lookups = look_up_all(site)
    assert [lookup.verdict for lookup in lookups.values()] == [
        Verdict.STALE,
        Verdict.WAITING,
        Verdict.WAITING,
    ]
    assert lookups["a"].key
    assert list(lookups["a"].reasons) == NEW
    assert lookups["b"].key is None
    assert [(reason.cause, reason.what) for reason in lookups["b"].reasons] == [("input", "a")]


def test_a_result_gives_its_users_their_keys(site: Site) -> None:
    site.made("a", x="1", seconds=5.0)
    lookups = look_up_all(site)
    assert (lookups["a"].verdict, lookups["a"].seconds) == (Verdict.FRESH, 5.0)
    assert lookups["a"].trace
    assert lookups["b"].verdict is Verdict.STALE
    first = lookups["b"].key
    site.write("in.txt", "changed")
    # Its cost is that of the last time, and why it is stale what has changed since.
    stale = look_up_all(site)["a"]
    assert (stale.verdict, stale.seconds) == (Verdict.STALE, 5.0)
    assert [(reason.cause, reason.what) for reason in stale.reasons] == [("file", "in.txt")]
    site.made("a", x="2")
    assert look_up_all(site)["b"].key not in (None, first)


def test_what_cannot_be_read_is_a_fault_of_the_node(site: Site) -> None:
    (site.folder / "in.txt").unlink()
    lookup = look_up_all(site)["a"]
    assert lookup.verdict is Verdict.BROKEN
    assert lookup.fault
    assert lookup.fault.target == "a"


def test_a_trace_that_lacks_an_output_is_none(site: Site) -> None:
    site.made("a", x="1")
    assert look_up_all(site)["a"].verdict is Verdict.FRESH
    site.edit("outputs: {x: x.txt}", "outputs: {x: x.txt, w: w.txt}")
    assert look_up_all(site)["a"].verdict is Verdict.STALE


@pytest.mark.parametrize(
    ("age", "verdict", "why"),
    [
        (1.0, Verdict.FRESH, ""),
        (40.0, Verdict.STALE, "made 40 days ago, and counts for 30"),
        (None, Verdict.STALE, "it is not known when it was made, and it counts for 30 days"),
        # What was made after the plan's look at the clock.
        (-0.1, Verdict.FRESH, ""),
    ],
)
def test_a_result_counts_as_long_as_its_node_says(
    site: Site, age: float | None, verdict: Verdict, why: str
) -> None:
    site.made("a", x="1")
    planner = site.planner()
    node = planner.graph.nodes["a"] = structs.replace(planner.graph.nodes["a"], max_age=30 * DAY)
    lookup = planner.plan(["a"]).lookups["a"]
    assert lookup.verdict is Verdict.STALE
    trace = planner.traces.get(lookup.key or "")
    assert trace
    made = {} if age is None else {MADE_AT: time.time() - age * DAY}
    planner.traces.put(structs.replace(trace, provenance=made))
    lookup = planner.plan(["a"]).lookups["a"]
    assert lookup.verdict is verdict
    assert [(reason.cause, reason.what) for reason in lookup.reasons] == (
        [("age", why)] if why else []
    )
    assert (planner.trace(node, lookup.key or "") is None) == (verdict is Verdict.STALE)
    planner.traces.close()


def test_no_clock_is_read_where_no_age_counts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.made("a", x="1")
    planner = site.planner()
    monkeypatch.setattr(type(planner.scan), "now", property(lambda scan: pytest.fail("a clock")))
    assert planner.plan(["a"]).lookups["a"].verdict is Verdict.FRESH
    planner.traces.close()


def beside(site: Site) -> Planner:
    """Return a planner of which `b` reads `a` and has nothing of it in its key."""
    planner = site.planner()
    graph = planner.graph
    node = graph.nodes["b"]
    edges = tuple(structs.replace(edge, keyed=False) for edge in node.edges)
    graph.nodes["b"] = structs.replace(node, edges=edges)
    graph.inputs["b"] = [
        (edge, source, output)
        for edge, (_, source, output) in zip(edges, graph.inputs["b"], strict=True)
    ]
    return planner


def test_what_is_not_keyed_changes_no_key_unless_the_result_is_for_one_content(site: Site) -> None:
    site.made("a", x="1")
    planner = beside(site)
    lookup = planner.plan(["b"]).lookups["b"]
    assert lookup.outputs is None
    outputs = {"": "1" * 32, "y": "2" * 32}
    made = Trace(lookup.key or "", "command", lookup.parts, outputs, "3" * 32)
    first = planner.plan(["b"]).lookups["a"].outputs
    assert first
    planner.traces.put(made)
    planner.traces.close()

    site.write("in.txt", "other")
    site.made("a", x="2")
    planner = beside(site)
    carried = planner.plan(["b"]).lookups["b"]
    assert (carried.key, carried.verdict) == (made.key, Verdict.FRESH)

    for allowed, verdict in (([[first["x"]]], Verdict.STALE), ("damage", Verdict.FRESH)):
        planner.traces.put(structs.replace(made, provenance={ONLY_FOR: allowed}))
        assert beside(site).plan(["b"]).lookups["b"].verdict is verdict
    planner.traces.put(structs.replace(made, provenance={ONLY_FOR: [[first["x"]]]}))
    refusing = beside(site)
    refused = refusing.plan(["b"]).lookups["b"]
    assert [r.what for r in refused.reasons] == ["measured on a busy machine, for other models"]
    assert refusing.trace(refused.node, made.key) is None
    # What is made after that counts, whatever it is for.
    again = structs.replace(made, provenance={ONLY_FOR: [["4" * 32]], MADE_AT: 1.0})
    refusing.traces.put(again)
    assert refusing.plan(["b"]).lookups["b"].verdict is Verdict.FRESH
    for one in (planner, refusing):
        one.traces.close()
    # A machine that was busy twice is not measured for each new model.
    for until, verdict in ((time.time() + DAY, Verdict.FRESH), (time.time() - 1, Verdict.STALE)):
        provenance = {ONLY_FOR: [[first["x"]]], COUNTS_UNTIL: until}
        planner.traces.put(structs.replace(made, provenance=provenance))
        assert beside(site).plan(["b"]).lookups["b"].verdict is verdict
    planner.traces.close()


def test_two_measurements_of_a_busy_machine_count_for_a_day() -> None:
    busy, quiet = {ONLY_FOR: [["1"]], MADE_AT: 5.0}, {MADE_AT: 6.0}
    assert carried_on(busy, quiet, 9.0) == quiet
    assert carried_on(quiet, busy, 9.0) == busy
    twice = carried_on({ONLY_FOR: [["2"]]}, busy, 9.0)
    assert twice == {ONLY_FOR: [["2"], ["1"]], MADE_AT: 5.0, COUNTS_UNTIL: 9.0 + DAY}
