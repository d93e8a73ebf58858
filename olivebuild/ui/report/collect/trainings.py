"""An adapter's metrics -> its records: final values and curves over the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from olivebuild.data import drops
from olivebuild.ui.report.records import Curve, Training

if TYPE_CHECKING:
    from olivebuild.ui.report.collect.evidence import Evidence

CURVE_POINTS = 120
CURVES = {"step": ("loss", "lr", "grad_norm"), "eval_step": ("eval_loss", "eval_accuracy")}
"""Name of the steps in the metrics -> names of the values at these steps."""


def training(evidence: Evidence, target: str) -> Training | None:
    """Return the last training of an adapter; None before the first."""
    metrics, failed = evidence.metrics(target), evidence.failed(target)
    if not metrics and not failed:
        return None
    figures = {name: _text(value) for name, value in metrics.items() if _is_scalar(value)}
    curve = metrics.get("curve")
    curves = tuple(_curves(curve)) if isinstance(curve, Mapping) else ()
    return Training(target, figures, curves, "; ".join(drops.all_told(metrics)), failed)


def _is_scalar(value: object) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _curves(curve: Mapping[str, Any]) -> Iterator[Curve]:
    for x, names in CURVES.items():
        steps = curve.get(x) or []
        for name in names:
            values = curve.get(name)
            if values:
                yield Curve(name, thin(list(zip(steps, values, strict=False))))


def thin(
    points: list[tuple[float, float]], most: int = CURVE_POINTS
) -> tuple[tuple[float, float], ...]:
    """Return at most `most` of the points at equal distances, the first and the last among them.

    Points that are not numbers are left out.
    """
    numbers = [(float(x), float(y)) for x, y in points if isinstance(y, int | float) and y == y]
    if len(numbers) <= most:
        return tuple(numbers)
    return tuple(numbers[round(i * (len(numbers) - 1) / (most - 1))] for i in range(most))
