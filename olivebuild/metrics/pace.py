"""Pace of a machine: whether the speeds of two measurements say something about the models.

Beside the models of a benchmark a control runs, whose work is always the same. Where it took
longer, so did the models, whatever they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from olivebuild.metrics.records import ControlMetrics, Latency, ModelMetrics

TIMES = (
    "ttft", "ttft_p95", "tpot", "itl_p50", "itl_p95", "itl_p99", "e2e", "load_seconds", "joules",
    "joules_per_token",
)  # fmt: skip
"""Metrics that grow with the time that a machine takes."""
RATES = ("tokens_per_second", "prompt_tokens_per_second")
MEASURED = (*TIMES, *RATES, "peak_rss", "gpu_memory")
"""All metrics of a latency measurement."""
UNEQUAL = 1.25
"""Ratio of two controls from which on their machines were not equally fast."""
PROCESSES = 1.05
"""Ratio by which two processes with one model differ."""
SAME_STRUCTURE = "same structure, not measured"


class Pace(Struct, frozen=True, kw_only=True):
    """Two measurements beside each other.

    `why` says why their speeds are not judged; "" where they are. `factor` is the control's time,
    new over old.
    """

    why: str = ""
    shared: bool = False
    """Both builds have the figures of one measurement."""
    factor: float = 1.0

    def is_noise(self, metric: str, old: float, new: float) -> bool:
        """Return whether a change is no more than that of the machine and of two processes.

        What is none shows both by itself and beside the control, whose own time varies, too.
        """
        if metric not in (*TIMES, *RATES) or old <= 0 or new <= 0:
            return False
        ratio = new / old if metric in TIMES else old / new
        low, high = sorted((ratio, ratio / self.factor))
        return low < PROCESSES and high > 1 / PROCESSES


def busy_machine(times: float) -> str:
    """Return that a machine was busy: its control took so many times as long."""
    return f"the machine was busy: the control took {times:.1f} times as long"


def pace_of(old: Latency, new: Latency) -> Pace:
    """Return whether the speeds of two measurements can be compared."""
    if is_shared(old, new):
        return Pace(why=SAME_STRUCTURE, shared=True)
    if new.busy:
        return Pace(why=busy_machine(new.busy))
    if old.busy:
        return Pace(why=f"when the other was measured, {busy_machine(old.busy)}")
    first, second = old.control, new.control
    if first is None and second is None:
        # Both are from before there was one.
        return Pace()
    if not (first and second and first.seconds and second.seconds):
        return Pace(why="no control ran beside both")
    if (first.kernel, first.threads) != (second.kernel, second.threads):
        return Pace(why="another control ran beside each")
    factor = _farthest(_ratios(first, second))
    if factor > UNEQUAL:
        return Pace(why=busy_machine(factor), factor=factor)
    if factor < 1 / UNEQUAL:
        return Pace(why=f"when the other was measured, {busy_machine(1 / factor)}", factor=factor)
    return Pace(factor=factor)


def is_shared(old: Latency, new: Latency) -> bool:
    """Return whether two builds have the figures of one measurement."""
    return (
        old.measured_at is not None
        and old.measured_at == new.measured_at
        and old.control == new.control
    )


def measured_as(models: Mapping[str, ModelMetrics], name: str) -> str:
    """Return the model that was measured for a model: itself, or one of the same structure."""
    return models[name].same_structure_as or name


def _ratios(old: ControlMetrics, new: ControlMetrics) -> list[float]:
    assert old.seconds
    assert new.seconds
    ratios = [new.seconds / old.seconds]
    if old.gpu_seconds and new.gpu_seconds:
        ratios.append(new.gpu_seconds / old.gpu_seconds)
    return ratios


def _farthest(ratios: list[float]) -> float:
    """Return the ratio that is farthest from one, either way."""
    return max(ratios, key=lambda ratio: max(ratio, 1 / ratio))
