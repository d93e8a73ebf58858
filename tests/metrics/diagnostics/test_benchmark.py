"""All diagnostics of a benchmark together: each fault once, and errors first."""

from __future__ import annotations

from olivebuild.metrics.diagnostics.benchmark import of_benchmark
from olivebuild.metrics.diagnostics.lineage import Lineage, ancestors, judged_of
from olivebuild.metrics.diagnostics.overlaps import Overlap
from tests.metrics.diagnostics.simulated import benchmark

LINEAGES = {
    "base": Lineage(),
    "merged": Lineage(source="base", trained_on=("tone",)),
    "int4": Lineage(source="merged", trained_on=("tone",), precision="int4"),
}


def test_a_fault_is_told_once_with_all_that_has_it() -> None:
    expected = ["joy", "sad"] * 30
    one = ["joy"] * 60
    metrics = benchmark(expected, {"base": expected, "merged": one, "int4": one})
    diagnostics = of_benchmark(metrics, "bench", LINEAGES)
    assert [(d.code, d.model, d.benchmark) for d in diagnostics] == [
        ("one-label", "merged", "bench")
    ]
    assert diagnostics[0].text.endswith("have another label; so does int4")


def test_a_base_beside_what_was_trained_is_not_judged_for_itself() -> None:
    expected = ["joy", "sad"] * 30
    models = {"base": ["joy"] * 60, "merged": expected, "int4": expected}
    assert of_benchmark(benchmark(expected, models), "bench", LINEAGES) == ()
    assert judged_of(models, LINEAGES) == ["merged", "int4"]
    alone = benchmark(expected, {"base": ["joy"] * 60})
    assert [d.code for d in of_benchmark(alone, "bench", LINEAGES)] == ["one-label"]


def test_errors_come_first() -> None:
    expected = ["joy", "sad"] * 30
    models = {"base": expected, "merged": expected, "int4": ["joy", "joy", "sad", "sad"] * 15}
    overlap = Overlap(train="tone", data="tone", rows=60, same=30, test_rows=tuple(range(30)))
    diagnostics = of_benchmark(benchmark(expected, models), "bench", LINEAGES, [overlap])
    assert [(d.code, d.severity) for d in diagnostics] == [
        ("test-in-train", "error"),
        ("quantisation-loss", "warning"),
    ]


def test_ancestors_end_where_lineages_do() -> None:
    assert ancestors("int4", LINEAGES) == ["merged", "base"]
    assert ancestors("other", LINEAGES) == []
