"""The choice of a token, and texts that end an answer."""

from __future__ import annotations

import numpy as np
import pytest

from olivebuild.core.errors import StepError
from olivebuild.ml.inference.serving.sampling import Stops, sample

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def shares(temperature: float, top_p: float, draws: int = 4000) -> np.ndarray:
    draw = np.random.default_rng(0)
    drawn = [sample(LOGITS, temperature, top_p, draw) for _ in range(draws)]
    return np.bincount(drawn, minlength=4) / draws


def test_tokens_are_drawn_by_their_shares() -> None:
    # Four standard deviations of 4000 draws.
    assert shares(1, 1) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.032)
    sharper = np.exp(LOGITS / 0.5) / np.exp(LOGITS / 0.5).sum()
    assert shares(0.5, 1) == pytest.approx(sharper, abs=0.032)


def test_a_nucleus_has_the_likeliest_that_reach_its_share() -> None:
    assert shares(1, 0.6) == pytest.approx([0.625, 0.375, 0, 0], abs=0.032)
    # The likeliest alone reaches the half exactly.
    assert shares(1, 0.4)[0] == 1
    assert shares(1, 1e-9)[0] == 1


@pytest.mark.parametrize("temperature", [0, 1e-300, 1e-30])
def test_a_temperature_near_zero_takes_the_likeliest(temperature: float) -> None:
    draw = np.random.default_rng(0)
    assert {sample(LOGITS * 100, temperature, 1, draw) for _ in range(50)} == {0}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_told(value: float) -> None:
    row = np.full(4, value, np.float32)
    with pytest.raises(StepError, match="not numbers"):
        sample(row, 0, 1, np.random.default_rng(0))


def test_a_token_that_can_not_be_is_not_drawn() -> None:
    row = np.array([-np.inf, 0, -np.inf, 0], np.float32)
    draw = np.random.default_rng(0)
    assert {sample(row, 1, 0.99, draw) for _ in range(50)} == {1, 3}


def test_text_goes_out_up_to_the_first_stop() -> None:
    stops = Stops(["END", "EN2"])
    assert [stops.add(piece) for piece in ("ab", "E", "N", "3", "cE")] == ["ab", "", "", "EN3", "c"]
    assert not stops.is_hit
    assert stops.add("NDx") == ""
    assert stops.is_hit


def test_what_was_held_back_comes_at_the_end() -> None:
    stops = Stops(["\n\n"])
    assert stops.add("a\n") == "a"
    assert stops.rest() == "\n"
    assert not stops.is_hit
    assert Stops([]).add("abc") == "abc"


def test_the_first_of_two_stops_counts_and_one_may_begin_in_another() -> None:
    stops = Stops(["bc", "ab"])
    assert (stops.add("xabc"), stops.is_hit) == ("x", True)
    stops = Stops(["aab"])
    assert [stops.add(piece) for piece in "aaab"] == ["", "", "a", ""]
    assert stops.is_hit
