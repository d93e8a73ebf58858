"""Latency is measured in turns, with all samples kept; what does not run, or does not fit, is
told.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from msgspec import structs

from olivebuild.api.action import ActionInput
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Traces
from olivebuild.core import host
from olivebuild.core.errors import StepError
from olivebuild.engine.build_comparison import between, why_no_speed
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.model_comparison import comparisons
from olivebuild.metrics.records import Metrics, ModelMetrics
from olivebuild.ml.benchmark.control import BUSY
from olivebuild.ml.benchmark.energy import Meter
from olivebuild.ml.benchmark.latency import Samples, _expected_rounds, measure
from olivebuild.planner.trace_lookup import ONLY_FOR
from olivebuild.steps.measurements.latency import LatencyFields
from tests.conftest import Done, Place
from tests.ml.test_control import busy_loops


def models(place: Place, *names: str) -> list[ActionInput]:
    folders = [str(place.folder / "build" / name) for name in names]
    return [
        ActionInput(folder, folder, "onnx", name)
        for folder, name in zip(folders, names, strict=True)
    ]


@pytest.mark.scenario
def test_models_take_turns_and_every_sample_is_kept(
    copied: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = LatencyFields(prompt_tokens=8, new_tokens=4, rounds=7, max_rounds=7)
    pair = models(copied, "onnx-int4", "onnx-int4")
    found = measure(pair, fields, lambda done, total: None)
    about = found["latency"]
    assert {"prompt_tokens": 8, "new_tokens": 4, "warmup": 1, "interleaved": True}.items() <= (
        about.items()
    )
    assert about["rounds"] + about["rounds_left_out"] == 7
    assert about["control"]["seconds"] > 0.001
    assert about["control"]["stretch"] > 0.9
    assert (about["busy"] is None) == (about["control"]["stretch"] <= BUSY)
    for row in found["models"]:
        samples = row["samples"]
        rounds = about["rounds"]
        assert [len(samples[name]) for name in ("ttft", "tpot", "e2e")] == [rounds] * 3
        assert len(samples["gaps"]) == 3 * rounds
        assert sum(samples["gaps"]) + sum(samples["ttft"]) == pytest.approx(sum(samples["e2e"]))
        if rounds >= 6:
            assert row["ttft_interval"][0] <= row["ttft"] <= row["ttft_interval"][1]
        assert 0 < row["itl_p50"] <= row["itl_p95"] <= row["itl_p99"]
        assert row["prompt_tokens_per_second"] == pytest.approx(8 / row["ttft"])
        assert row["tokens_per_second"] == pytest.approx(1 / row["tpot"])
        # A process that runs an ONNX model does not hold torch.
        assert 0 < row["peak_rss"] < 300e6
        assert (row["provider"], row["threads"] > 0) == ("cpu", True)
    named = {name: row | {"data": {}} for name, row in zip("ab", found["models"], strict=True)}
    assert [c["figure"] for c in comparisons(decode(named, dict[str, ModelMetrics]), [])] == [
        "ttft",
        "tpot",
        "e2e",
    ]

    monkeypatch.setattr(host, "available_memory", lambda: 0)
    seen: list[tuple[int, int]] = []
    alone = measure(pair, fields, lambda done, total: seen.append((done, total)))
    assert (alone["latency"]["interleaved"], len(alone["models"]), seen[-1]) == (False, 2, (14, 14))


@pytest.mark.scenario
def test_models_of_one_structure_are_measured_once(copied: Place) -> None:
    fields = LatencyFields(prompt_tokens=8, new_tokens=2, rounds=2, max_rounds=2)
    pair = models(copied, "onnx-int4", "onnx-int4")
    one = measure(pair, fields, lambda done, total: None, [{"graph": "1"}, {"graph": "1"}])
    first, second = one["models"]
    assert second == first | {"same_structure_as": "onnx-int4"}
    named = {"onnx-int4": first | {"data": {}}, "other": second | {"data": {}}}
    assert comparisons(decode(named, dict[str, ModelMetrics]), []) == []


@pytest.mark.scenario
def test_a_planted_busy_machine_gives_no_red_speed(copied: Place) -> None:
    fields = LatencyFields(prompt_tokens=8, new_tokens=4, rounds=3, max_rounds=3)
    with busy_loops(2 * (os.cpu_count() or 1)):
        found = measure(models(copied, "onnx-int4"), fields, lambda done, total: None)
    busy = found["latency"]["busy"]
    assert busy > BUSY
    row = found["models"][0] | {"data": {}}
    # As it was on a machine that did nothing else.
    quiet = row | {"ttft": row["ttft"] / 4.78, "tokens_per_second": row["tokens_per_second"] * 4.78}
    before = {"measured_at": "2026-11-20T10:00:00Z", "control": {"seconds": 0.01}}
    old = {"models": {"onnx-int4": quiet}, "latency": before}
    new = {"models": {"onnx-int4": row}, "latency": found["latency"]}
    changes = between("bench", decode(old, Metrics), decode(new, Metrics))
    assert {c.better for c in changes if c.figure in ("ttft", "tokens_per_second")} == {None}
    said = f"the machine was busy: the control took {busy:.1f} times as long"
    assert why_no_speed(decode(old, Metrics), decode(new, Metrics)) == said


BENCH = """\
  bench:
    kind: benchmark
    models: [onnx-int4]
    data: tone
    latency: {prompt_tokens: 8, new_tokens: 2, rounds: 2, max_rounds: 2}
"""


@pytest.mark.scenario
def test_an_edited_row_measures_nothing_anew_and_says_since_when(copied: Place) -> None:
    copied.recipe.write_text(copied.recipe.read_text() + BENCH)
    first = copied.build("bench")
    assert first.code == 0, first.err
    assert "bench:latency" in nodes_run(first)
    before = json.loads(copied.built("bench", "metrics.json"))
    assert before["models"]["onnx-int4"]["size"] > 0

    as_if_quiet(copied)
    rows = copied.folder / "data/tone.jsonl"
    rows.write_text(rows.read_text().replace("glad", "merry"))
    second = copied.build("bench")
    assert second.code == 0, second.err
    assert {"merged", "onnx-int4", "bench:structure", "bench"} <= nodes_run(second)
    assert "bench:latency" not in nodes_run(second)
    after = json.loads(copied.built("bench", "metrics.json"))
    assert after["latency"] == before["latency"]
    shown = copied.run("build", "bench")
    assert f"measured {before['latency']['measured_at'][:10]}" in shown.out
    assert "same structure, not measured again" in shown.out
    compared = copied.run("compare", "--json")
    found = json.loads(compared.out)
    assert found["speeds"] == {"bench": "same structure, not measured"}
    assert not {c["figure"] for c in found["changes"]} & {"ttft", "tokens_per_second", "peak_rss"}

    copied.edit("max_rounds: 2", "max_rounds: 2, remeasure: 1d")
    assert copied.verdicts("bench")["bench"] == "fresh"
    # The content of the models is in the key then.
    copied.edit("remeasure: 1d", "remeasure: always")
    assert copied.verdicts("bench")["bench"] == "stale"


def as_if_quiet(place: Place) -> None:
    """Let the measurement count as if nothing else had run on the machine."""
    traces = Traces(Store(place.cache))
    keys = traces.keys()
    for key in keys:
        trace = traces.get(key)
        if trace and trace.kind == "benchmark-latency":
            kept = {k: v for k, v in trace.provenance.items() if k != ONLY_FOR}
            traces.put(structs.replace(trace, provenance=kept))
    traces.close()


def nodes_run(done: Done) -> set[str]:
    """Return the nodes that a build ran."""
    events = [json.loads(line) for line in done.out.splitlines()]
    return {event["node"] for event in events if event["event"] == "finished"}


@pytest.mark.scenario
def test_a_model_that_does_not_run_is_named(copied: Place) -> None:
    (copied.folder / "build/broken").mkdir()
    (copied.folder / "build/broken/genai_config.json").write_text("{}")
    with pytest.raises(StepError, match="broken could not be measured"):
        measure(
            models(copied, "onnx-int4", "broken"),
            LatencyFields(prompt_tokens=8, new_tokens=2, rounds=1, max_rounds=1),
            lambda done, total: None,
        )


def test_rounds_go_on_until_the_times_are_known_well_enough() -> None:
    steady, restless = Samples({}), Samples({})
    for i in range(9):
        steady.times.append([1.0 + i / 1000, 1.5, 2.0 + i / 1000])
        restless.times.append([1.0 + i / 5, 1.5 + i, 2.0 + i])
    assert steady.tight(0.05)
    assert not restless.tight(0.05)
    steady.times = steady.times[:5]
    assert not steady.tight(0.05)


def test_the_rounds_to_come_follow_from_those_that_were() -> None:
    steady, restless = Samples({}), Samples({})
    for i in range(9):
        steady.times.append([1.0 + i / 1000, 1.5, 2.0 + i / 1000])
        # The interval is twice as wide as is asked.
        restless.times.append([1.0, 1.5, 2.0 + (i - 4) / 32])
    fields = LatencyFields(rounds=9, max_rounds=60, max_seconds=1000, tolerance=0.05)
    assert _expected_rounds([steady], fields, 9, 10.0) == 10
    assert 10 < _expected_rounds([steady, restless], fields, 9, 10.0) < 60
    few = fields.model_copy(update={"max_rounds": 12})
    assert _expected_rounds([restless], few, 9, 10.0) == 12
    # Twenty seconds are enough for as many again.
    short = fields.model_copy(update={"max_seconds": 20.0})
    assert _expected_rounds([restless], short, 9, 10.0) == 18
    assert _expected_rounds([steady], fields, 2, 1.0) == 9


def test_energy_is_that_of_all_packages_across_the_counters_end(tmp_path: Path) -> None:
    for name, start in (
        ("intel-rapl:0", 5_000_000),
        ("intel-rapl:1", 9_000_000),
        ("intel-rapl:0:0", 1),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{start}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    meter = Meter(tmp_path)
    assert meter.joules() == 0
    (tmp_path / "intel-rapl:0/energy_uj").write_text("7000000\n")
    (tmp_path / "intel-rapl:1/energy_uj").write_text("500000\n")
    (tmp_path / "intel-rapl:0:0/energy_uj").write_text("900\n")
    assert meter.joules() == pytest.approx(2 + 1.5)
    assert Meter(tmp_path / "nothing").joules() is None
