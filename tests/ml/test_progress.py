"""Figures of a training: curves of at most so many points, and figures read back from a state."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from olivebuild.ml.training.progress import POINTS, PendingFigures, Progress  # noqa: E402


def progress(steps: int) -> Progress:
    return Progress(
        losses=[float(i) for i in range(steps)],
        rates=[0.1] * steps,
        norms=[1.0] * steps,
    )


def test_a_short_training_has_a_point_a_step() -> None:
    curve = progress(3).curve()
    assert curve["step"] == [1.0, 2.0, 3.0]
    assert curve["loss"] == [0.0, 1.0, 2.0]


def test_a_long_training_has_few_points_and_the_last_step() -> None:
    curve = progress(4 * POINTS).curve()
    assert len(curve["step"]) == POINTS
    assert curve["step"][-1] == 4 * POINTS
    # A point is the mean of the steps since the one before.
    assert curve["loss"][0] == 1.5


def test_the_last_point_is_the_mean_of_the_steps_that_no_other_point_has() -> None:
    steps = 2 * POINTS + 1
    curve = progress(steps).curve()
    assert curve["step"][-2:] == [steps - 2, steps]
    assert curve["loss"][-1] == steps - 1.5


def test_no_step_has_no_point() -> None:
    assert progress(0).curve() == {"step": [], "loss": [], "lr": [], "grad_norm": []}


def test_what_else_a_state_holds_is_no_progress() -> None:
    assert Progress.from_figures({"tokens": 7, "lr": 1.0}) == Progress(tokens=7)


def test_figures_of_a_step_are_read_as_numbers() -> None:
    pending = PendingFigures(4, torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(2.0))
    assert (pending.step, pending.read()) == (4, (0.5, 2.0))
