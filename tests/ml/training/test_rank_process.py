"""Processes of a training's ranks: each row of a batch is in one share, wherever one begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("peft")

import torch
from peft import LoraConfig, get_peft_model
from transformers import Phi3Config, Phi3ForCausalLM

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.nn.forward import Forward, Setup, labels_of
from olivebuild.ml.nn.frozen.fp8 import layers_of, quantise_base
from olivebuild.ml.training import data_parallel
from olivebuild.ml.training.rank_process import Share, _shares, run_rank
from olivebuild.ml.training.schedule import Schedule
from tests.support.tiny_models import COMMON

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SMALL = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 32, "sliding_window": None}
ROWS = [Tokens(np.full(n, n, np.int32), np.arange(n) >= 1) for n in (9, 2, 7, 3, 5, 4, 8)]
SCHEDULE = Schedule(
    count=len(ROWS), batch=3, steps=4, lr=1.0, warmup=0, scheduler="constant", decay=0, seed=5
)


@pytest.fixture(scope="module")
def forward() -> Forward:
    model = get_peft_model(
        Phi3ForCausalLM(Phi3Config(**(COMMON | SMALL))), LoraConfig(target_modules=["o_proj"])
    )
    setup = Setup(packed=False, share_prefixes=False, tokens_per_micro_batch=64)
    return Forward(model, torch.device("cpu"), setup, lambda _: None)


def shares(forward: Forward, rank: int, count: int, start: int = 0) -> list[Share]:
    return list(_shares(forward, ROWS, SCHEDULE, start, rank, count))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_together_are_the_batches(forward: Forward, count: int) -> None:
    ranks = [shares(forward, rank, count) for rank in range(count)]
    batches = [[ROWS[i] for i in indices] for indices in SCHEDULE.batches()]
    assert {len(rank) for rank in ranks} == {SCHEDULE.steps}
    for batch, of_step in zip(batches, zip(*ranks, strict=True), strict=True):
        dealt = [id(row) for rows, _, _ in of_step for row in rows]
        assert sorted(dealt) == sorted(map(id, batch))
        # The mean is over the whole batch, whatever a process has of it.
        assert {labels for _, _, labels in of_step} == {labels_of(batch)}


def test_a_resumed_training_goes_on_with_its_batches(forward: Forward) -> None:
    whole = [[len(row) for row in rows] for rows, _, _ in shares(forward, 1, 2)]
    resumed = [[len(row) for row in rows] for rows, _, _ in shares(forward, 1, 2, start=2)]
    assert resumed == whole[2:]
    assert shares(forward, 1, 2, start=SCHEDULE.steps) == []


def test_more_processes_than_rows_leave_one_without(forward: Forward) -> None:
    counts = [len(shares(forward, rank, 5)[0][0]) for rank in range(5)]
    assert sorted(counts) == [0, 0, 1, 1, 1]


def test_each_step_is_computed_by_the_rounding_whose_turn_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a base in FP8, as in the first process; and all judgements are of the first rounding."""
    sizes = COMMON | SMALL | {"hidden_size": 32, "intermediate_size": 32}
    model: Any = get_peft_model(
        Phi3ForCausalLM(Phi3Config(**sizes)), LoraConfig(target_modules=["o_proj"])
    )
    assert quantise_base(model)[0]
    setup = Setup(packed=False, share_prefixes=False, tokens_per_micro_batch=64)
    forward = Forward(model, torch.device("cpu"), setup, lambda _: None)
    asked = iter([0, 1, data_parallel.PASS, 2, 3, data_parallel.END])
    turns, judged = list[int](), list[int]()

    def backward(rows: object, layout: object, labels: int) -> torch.Tensor:
        turns.append(forward.turn)
        assert {layer.turn for layer in layers_of(model)} == {forward.turn}
        return torch.zeros(())

    def logits(part: object) -> Any:
        judged.append(forward.turn)
        return torch.zeros(1, 32)

    monkeypatch.setattr(forward, "backward", backward)
    monkeypatch.setattr(forward, "padded_logits", logits)
    monkeypatch.setattr(data_parallel, "receive_step", lambda: (next(asked), 1.0))
    monkeypatch.setattr(data_parallel, "receive_weights", lambda _: None)
    monkeypatch.setattr(data_parallel, "reduce_gradients", lambda *_: None)
    run_rank(forward, ROWS, SCHEDULE, 0, 1, 2)
    assert turns == [0, 1, 0, 1]
    assert judged == [0]
