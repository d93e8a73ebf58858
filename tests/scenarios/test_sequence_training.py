"""Training on sequences: what is not attended to, blocks in the order of the data, a build."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Place, rows, write_rows
from tests.scenarios.training import adapted, bytes_of, fit

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]
PAD = 2


def masked_rows(seed: int = 0) -> list[Any]:
    """Blocks of one length with padding within some of them, as joined texts have it."""
    from olivebuild.ml.data.examples import Tokens

    chance = np.random.default_rng(seed)
    batch = []
    for n in range(6):
        ids = chance.integers(3, 380, 24 - n).astype(np.int32)
        ids[chance.integers(2, len(ids) - 2, n)] = PAD
        if n == 5:
            # What stands first sees nothing, itself neither.
            ids[0] = PAD
        attended = ids != PAD
        batch.append(Tokens(ids, attended.copy(), attended=None if attended.all() else attended))
    return batch


@pytest.mark.parametrize("single", [False, True])
def test_masked_tokens_are_what_transformers_masks(llama: Path, single: bool) -> None:
    import torch

    from olivebuild.ml.nn.forward import Forward, Setup

    model, batch = adapted(llama), masked_rows()
    setup = Setup(packed=False, share_prefixes=False, tokens_per_micro_batch=48, single=single)
    loss = Forward(model, torch.device("cpu"), setup, print).backward(batch)
    weights = [p for p in model.parameters() if p.requires_grad]
    got = torch.cat([w.grad.flatten() for w in weights])
    model.zero_grad()
    # Right-padded and with labels, as a collator hands a batch to the model.
    length = max(map(len, batch))
    ids = torch.full((len(batch), length), PAD)
    for r, row in enumerate(batch):
        ids[r, : len(row)] = torch.from_numpy(row.ids.astype(np.int64))
    mask = (ids != PAD).long()
    labels = torch.where(mask.bool(), ids, -100)
    expected = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    expected.backward()
    wanted = torch.cat([w.grad.flatten() for w in weights])
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float((got - wanted).norm() / wanted.norm()) < 1e-4


def test_rows_with_masked_tokens_are_padded(llama: Path, tmp_path: Path) -> None:
    loop, _ = fit(tmp_path, llama, masked_rows(), {"steps": 2})
    assert not loop.runner.forward.setup.packed
    whole = [row for row in masked_rows() if row.attended is None]
    assert fit(tmp_path / "whole", llama, whole, {"steps": 2})[0].runner.forward.setup.packed
    # So are others that are judged by such.
    from olivebuild.ml.training.validation import Validation

    held_out = Validation(masked_rows(1), 1, None, best=True)
    loop, _ = fit(tmp_path / "judged", llama, whole, {"steps": 2}, held_out=held_out)
    assert not loop.runner.forward.setup.packed
    assert len(held_out.losses) == 2


def test_a_share_of_the_steps_warms_up() -> None:
    from olivebuild.ml.training.train import schedule_of
    from olivebuild.steps.parts.training import Training

    def warmup(steps: int, **fields: Any) -> int:
        return schedule_of(Training(steps=steps, **fields), 10).warmup

    assert warmup(10) == 0
    assert warmup(10, warmup=3) == 3
    assert [warmup(n, warmup_ratio=0.03) for n in (1, 33, 34, 100)] == [1, 1, 2, 3]
    assert warmup(10, warmup_ratio=0.0) == 0


def blocks_of(ids: list[int], length: int) -> list[Any]:
    from olivebuild.ml.data.examples import Tokens

    cut = [ids[i : i + length] for i in range(0, len(ids), length)]
    return [Tokens(np.array(block, np.int32), np.ones(len(block), bool)) for block in cut]


def test_blocks_in_the_order_of_the_data_train_on_where_they_ended(
    llama: Path, tmp_path: Path
) -> None:
    """Rows that are added at the end leave all blocks but the last, shorter one as they were."""
    chance = random.Random(2)
    ids = [chance.randint(3, 380) for _ in range(330)]
    training = {"order": "append", "checkpoint_steps": None}
    more = [*ids, *(chance.randint(3, 380) for _ in range(40))]
    clean = bytes_of(fit(tmp_path / "clean", llama, blocks_of(more, 10), training)[0])
    assert fit(tmp_path, llama, blocks_of(ids, 10), training)[0].steps_skipped == 0
    loop, _ = fit(tmp_path, llama, blocks_of(more, 10), training)
    assert loop.steps_skipped > 3
    assert bytes_of(loop) == clean


RECIPE = """\
version: 1
targets:
  base: {kind: model, source: tiny}
  tone: {kind: dataset, source: data/tone.jsonl, text: "{phrase}: {tone}", holdout: 0,
         dedupe: false, near_duplicates: false}
  adapter: {kind: adapter, model: base, data: tone.train,
            sequences: SEQUENCES,
            eval: {every: 2}, training: {max_length: 32, batch: 2, steps: 4, data_seed: 42}}
"""


@pytest.fixture
def blocks(tiny_model: Path, place: Place) -> Place:
    shutil.copytree(tiny_model, place.folder / "tiny")
    write_rows(place.folder / "data/tone.jsonl", rows())
    spaced = "{form: blocks, special_tokens: spaced, remainder: drop-last, holdout: 0.3}"
    place.recipe.write_text(RECIPE.replace("SEQUENCES", spaced))
    return place


def test_a_build_says_what_it_trains_on(blocks: Place) -> None:
    from transformers import AutoTokenizer

    done = blocks.build("adapter")
    assert done.end["ran"] == ["tone", "adapter"], done.err
    tokenizer = AutoTokenizer.from_pretrained(blocks.folder / "tiny")
    text = [f"<s> {row['phrase']}: {row['tone']} <|endoftext|>" for row in rows()]
    n = sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in text)
    count = math.ceil((n - 32) / 32)
    held = math.ceil(0.3 * count)
    traces = [file.read_text().partition("\n")[2] for file in blocks.cache.glob("blobs/*/*.trace")]
    (metrics,) = [m for m in (json.loads(t)["metrics"] for t in traces) if "sequences" in m]
    notes = [e["text"] for e in done.events if e["event"] == "note"]
    assert f"{held} sequences are held out" in notes
    assert metrics["sequences"] == metrics["examples"] == count - held
    assert metrics["sequences_held_out"] == held
    assert metrics["sequence_tokens"] == (count - held) * 32
    assert metrics["tokens_left_out"] == n - 32 * count
    assert metrics["eval_loss"] > 0
    # Nothing has changed; then no block is full, which is told before the model is loaded.
    assert blocks.build("adapter").ran == []
    blocks.edit("max_length: 32", "max_length: 512")
    write_rows(blocks.folder / "data/tone.jsonl", rows()[:4])
    done = blocks.build("adapter")
    assert done.code != 0
    assert "tokens of 4 rows give no block of 512" in done.err
    # Blocks that the model can't take are told by a plan.
    blocks.edit("max_length: 512", "max_length: 1024")
    done = blocks.run("plan", "adapter")
    assert done.code != 0
    assert "sequences of 1024 tokens are more than the 512 that the model takes" in done.err
