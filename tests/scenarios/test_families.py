"""What is done with the families that people fine-tune is right: measured on tiny models configured
as they are published (tests/support/families.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scenarios.training import adapted
from tests.support.families import FAMILIES, ORIGINAL, WINDOW, write

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning"),
    pytest.mark.usefixtures("one_thread"),
]
TRAINED = [name for name, family in FAMILIES.items() if not family.stored]
CORE = {
    "Phi-3-mini",
    "Llama-3.2",
    "Gemma-3",
    "Qwen2.5",
    "Granite-4-H",
    "InternLM2",
    "GPTQ",
    "4-bit",
}
PADDED = {"Gemma-2", "Granite-4-H", "LFM2", "Nemotron", "gpt-oss"}
"""Those whose rows can't lie end to end: soft caps, states, a mask of their own, sinks."""


def rows_around(*lengths: int) -> list[Any]:
    """Rows of random tokens around lengths at which models begin to do something else, and some
    that begin alike.
    """
    from olivebuild.ml.data.examples import Tokens

    random = np.random.default_rng(0)
    start = random.integers(8, 300, 12)
    made = [
        random.integers(8, 300, n) for n in (9, *(m + d for m in lengths for d in (-1, 0, 1, 20)))
    ]
    made += [np.concatenate([start, ids[:40]]) for ids in made[:3]]
    return [Tokens(ids.astype(np.int32), np.arange(len(ids)) >= len(ids) // 2) for ids in made]


def alone(model: Any, rows: list[Any]) -> tuple[float, Any]:
    """The mean loss and its gradient, each row by itself through the class as transformers loads
    it.
    """
    import torch

    model.zero_grad()
    total, count = 0.0, sum(row.labels for row in rows)
    for row in rows:
        ids, counted = torch.tensor(row.ids).long(), torch.tensor(row.counted[1:])
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        loss = (
            torch.nn.functional.cross_entropy(logits[counted], ids[1:][counted], reduction="sum")
            / count
        )
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def trained(folder: Path) -> tuple[str, float, float]:
    """How rows are laid out, and how far loss and gradient are, as shares, from those of rows one
    by one.
    """
    import torch

    from olivebuild.ml.models import load
    from olivebuild.ml.nn import qlora
    from olivebuild.ml.nn.forward import Forward
    from olivebuild.ml.nn.layout_trial import takes_packed

    base = load.load_model(folder, torch.float32)
    qlora.for_training(base)
    model, rows = adapted(folder, base).eval(), rows_around(WINDOW, ORIGINAL)
    loss, slope = alone(model, rows)
    setup = takes_packed(model, rows, torch.device("cpu"), lambda text: None)
    wrong, turned = 0.0, 0.0
    for share, limit in ((setup.packed, 10_000), (False, 100)):
        setup.share_prefixes, setup.tokens_per_micro_batch = share, limit
        model.zero_grad()
        forward = Forward(model, torch.device("cpu"), setup, print)
        found = float(forward.backward(rows))
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        judged = forward.evaluate(rows)
        wrong = max(wrong, abs(found / loss - 1), abs(judged[0] / judged[2] / loss - 1))
        turned = max(turned, float((gradient - slope).norm() / slope.norm()))
    return "packed" if setup.packed else "one by one" if setup.single else "padded", wrong, turned


def test_a_support_table_holds_each_family() -> None:
    table = Path(__file__, "../../../docs/support.md").resolve().read_text("utf-8")
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows[2:] == list(FAMILIES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in CORE else pytest.mark.slow) for name in FAMILIES],
)
def test_what_is_made_of_a_family_is_right_or_refused(name: str, tmp_path: Path) -> None:
    from tests.scenarios.support import faults, measure

    assert faults(measure(name, tmp_path / "family")) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_the_nearest_ones_do_not_keep_any_model_below_a_bound(
    tmp_path: Path,
) -> None:
    """What docs/support.md says of larger weights."""
    from olivebuild.cache.store import Store
    from tests.scenarios.support import LIMITS, merge_spread

    found, way, _ = merge_spread(
        tmp_path / "large", Store(tmp_path / "cache"), "Nemotron", "bfloat16", times=2.5
    )
    assert way == "tensors"
    assert found["off"] <= LIMITS["off"]
    assert (round(found["merged"], 2), round(found["computed"], 1)) == (0.09, 0.2)


@pytest.mark.parametrize("name", TRAINED)
def test_rows_are_trained_on_as_each_is_alone(name: str, tmp_path: Path) -> None:
    how, wrong, turned = trained(write(name, tmp_path / "model", dtype="float32"))
    assert how == ("padded" if name in PADDED else "packed")
    assert wrong < 1e-5
    assert turned < 1e-5


def test_rows_of_a_growing_rope_are_alone(tmp_path: Path) -> None:
    scaling = {"type": "dynamic", "factor": 2.0}
    how, wrong, turned = trained(
        write(
            "Falcon3",
            tmp_path / "model",
            dtype="float32",
            rope_scaling=scaling,
            max_position_embeddings=ORIGINAL,
        )
    )
    assert (how, wrong < 1e-5, turned < 1e-5) == ("packed", True, True)


def test_long_rows_are_tried_beyond_a_window_and_an_original_context(tmp_path: Path) -> None:
    from olivebuild.ml.nn.layout_trial import trial_rows
    from olivebuild.ml.nn.reach import Reach

    reach = Reach(
        adapted(write("Gemma-3", tmp_path / "gemma", dtype="float32", sliding_window=512))
    )
    assert reach.limits == [512]
    assert max(map(len, trial_rows(rows_around(700), reach))) == 576
    assert max(map(len, trial_rows(rows_around(400), reach))) == 256
    phi = Reach(adapted(write("Phi-3.5", tmp_path / "phi", dtype="float32")))
    assert ORIGINAL in phi.limits
    assert [len(rows) for rows in phi.apart(rows_around(ORIGINAL))] == [6, 2]


def test_answers_beyond_the_original_context_are_those_of_each_prompt_alone(tmp_path: Path) -> None:
    from olivebuild.ml.inference.questions import Question
    from olivebuild.ml.inference.torch_runtime import HuggingFaceRuntime

    runtime = HuggingFaceRuntime(
        write("Phi-3.5", tmp_path / "model", dtype="float32"), trust_remote_code=False
    )
    random = np.random.default_rng(0)
    # Short of it, short of it until the answer is written, and beyond.
    prompts = [random.integers(8, 300, n).tolist() for n in (20, ORIGINAL - 3, ORIGINAL + 9, 31)]
    questions = [
        Question(prompt=prompt, completions=[random.integers(8, 300, 5).tolist() for _ in range(2)])
        for prompt in prompts
    ]
    together = runtime.ask(questions, 6, set())
    for question, reply in zip(questions, together, strict=True):
        (alone,) = runtime.ask([question], 6, set())
        assert reply.written == alone.written
        assert np.allclose(reply.scores, alone.scores, atol=1e-4)
        _same_as_whole_texts(runtime.model, question, reply)


def _same_as_whole_texts(model: Any, question: Any, reply: Any) -> None:
    """As transformers computes the text of prompt and answer in one pass, as training does."""
    import torch

    for completion, score in zip(question.completions, reply.scores, strict=True):
        ids = torch.tensor([question.prompt + completion])
        with torch.inference_mode():
            found = (
                model(input_ids=ids, use_cache=False)
                .logits[0]
                .log_softmax(-1)[len(question.prompt) - 1 : -1]
            )
        assert abs(float(found.gather(1, torch.tensor(completion)[:, None]).sum()) - score) < 1e-3


def test_padding_that_changes_a_row_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from olivebuild.ml.nn.layout_trial import takes_packed

    model = adapted(write("LFM2", tmp_path / "model", dtype="float32")).eval()
    said: list[str] = []
    # A class that forgets to leave padding out of its convolutions.
    base = model.get_base_model().model
    monkeypatch.setattr(
        "transformers.models.lfm2.modeling_lfm2.apply_mask_to_padding_states",
        lambda states, mask: states,
    )
    base.embed_tokens.weight.data[0] = 3.0
    setup = takes_packed(model, rows_around(WINDOW), torch.device("cpu"), said.append)
    assert (setup.packed, setup.single) == (False, True)
    assert "one by one" in said[-1]
