"""Latency is measured in turns, with all samples kept; what does not run, or does not fit, is
told.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.api.action import ActionInput
from olivebuild.core import host
from olivebuild.core.errors import StepError
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.model_comparison import comparisons
from olivebuild.metrics.records import ModelMetrics
from olivebuild.ml.benchmark.energy import Meter
from olivebuild.ml.benchmark.latency import Samples, measure
from olivebuild.steps.benchmark_latency import LatencyFields
from tests.conftest import Place


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
    assert found["latency"] | {"why_stopped": "", "machine": {}} == {
        "prompt_tokens": 8, "new_tokens": 4, "warmup": 1, "rounds": 7, "interleaved": True,
        "why_stopped": "", "machine": {}
    }  # fmt: skip
    for row in found["models"]:
        samples = row["samples"]
        assert [len(samples[name]) for name in ("ttft", "tpot", "e2e", "gaps")] == [7, 7, 7, 21]
        assert sum(samples["gaps"]) + sum(samples["ttft"]) == pytest.approx(sum(samples["e2e"]))
        assert row["ttft_interval"][0] <= row["ttft"] <= row["ttft_interval"][1]
        assert 0 < row["itl_p50"] <= row["itl_p95"] <= row["itl_p99"]
        assert row["prompt_tokens_per_second"] == pytest.approx(8 / row["ttft"])
        assert row["tokens_per_second"] == pytest.approx(1 / row["tpot"])
        # A process that runs an ONNX model does not hold torch.
        assert 0 < row["peak_rss"] < 300e6
        assert (row["provider"], row["size"] > 0, row["threads"] > 0) == ("cpu", True, True)
    named = {name: row | {"data": {}} for name, row in zip("ab", found["models"], strict=True)}
    assert [
        (c["figure"], c["ratio_interval"] is not None)
        for c in comparisons(decode(named, dict[str, ModelMetrics]), [])
    ] == [
        ("ttft", True),
        ("tpot", True),
        ("e2e", True),
    ]

    monkeypatch.setattr(host, "available_memory", lambda: 0)
    seen: list[tuple[int, int]] = []
    alone = measure(pair, fields, lambda done, total: seen.append((done, total)))
    assert (alone["latency"]["interleaved"], len(alone["models"]), seen[-1]) == (False, 2, (14, 14))


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
