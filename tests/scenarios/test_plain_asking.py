"""Likelihoods and answers are those of the plain way: each text read by itself, from its beginning.

Float32 models agree to 1e-3 nats a token (sums of a few hundred products in another order); a
written answer is compared where its likeliest tokens lead by more than that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.cache.store import Store
from olivebuild.ml.inference.questions import Question, Reply
from tests.support import plain_asking
from tests.support.families import FAMILIES, ORIGINAL, WINDOW, write
from tests.support.tiny_models import ARCHITECTURES, make

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]
TRAINED = [name for name, family in FAMILIES.items() if not family.stored]
NEW_TOKENS = 6
ENDS = {2, 40}
TOLERANCE = 1e-3


def questions(longest: int = 40) -> list[Question]:
    """Prompts that begin alike, one that others begin with, and completions short and long."""
    random = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return list(map(int, random.integers(8, 300, count)))

    start = ids(7)
    prompts = [[*start, *ids(n)] for n in (1, 9, 14, 15, 15, longest - 7)]
    prompts += [prompts[1][:9], [*prompts[1], *ids(3)]]
    labels = [ids(1), ids(2), ids(5)]
    asked = [
        Question(prompt=prompt, completions=labels, right=i % 3) for i, prompt in enumerate(prompts)
    ]
    asked += [Question(prompt=prompts[2], completions=[ids(n) for n in (1, 11)])]
    return [*asked, Question(prompt=prompts[3], completions=[])]


def compare(
    asked: list[Question], replies: list[Reply], plain: plain_asking.Logits, tolerance: float
) -> None:
    for question, reply in zip(asked, replies, strict=True):
        expected = plain_asking.scores(plain, question)
        exact = [i for i in range(len(expected)) if question.right in (None, i)]
        if expected:
            assert np.argmax(reply.scores) == np.argmax(expected)
            exact.append(int(np.argmax(expected)))
        for i, score in enumerate(expected):
            within = tolerance * len(question.completions[i])
            assert reply.scores[i] > score - within
            if i in exact:
                assert reply.scores[i] == pytest.approx(score, abs=within)
        answer, lead = plain_asking.written(plain, question, NEW_TOKENS, ENDS)
        if lead > 2 * tolerance:
            assert reply.written == answer


@pytest.mark.parametrize("name", TRAINED)
def test_a_family_answers_as_each_text_alone(name: str, tmp_path: Path) -> None:
    from olivebuild.ml.inference.torch_runtime import HuggingFaceRuntime

    runtime = HuggingFaceRuntime(write(name, tmp_path / "model", dtype="float32"), False)
    # Some of them are longer than the windows that some families have.
    asked = questions(WINDOW + 20)
    replies = runtime.ask(asked, NEW_TOKENS, ENDS)
    compare(asked, replies, plain_asking.of_torch(runtime.model), TOLERANCE)


@pytest.fixture(scope="module")
def converted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of ONNX models, by architecture and precision."""
    from olivebuild.steps.onnx import OnnxFields
    from tests.scenarios.steps import by_builder

    folder = tmp_path_factory.mktemp("converted")
    store, folders = Store(folder / "cache"), {}
    for name in ARCHITECTURES:
        make(name, folder / name, tiny_model, dtype="float32")
    options: dict[str, tuple[str, dict[str, Any]]] = {
        **{f"{name}-fp32": (name, {"precision": "fp32"}) for name in ARCHITECTURES},
        "phi3-int4": ("phi3", {"precision": "int4", "block_size": 32}),
        "phi3-pruned": ("phi3", {"precision": "fp32", "prune_lm_head": True}),
    }
    for name, (model, fields) in options.items():
        by_builder(
            folder / name,
            store,
            OnnxFields.model_validate({"model": "m", **fields}),
            folder / model,
        )
        folders[name] = folder / name / "out"
    return folders


@pytest.mark.parametrize(
    "name", [*(f"{name}-fp32" for name in ARCHITECTURES), "phi3-int4", "phi3-pruned"]
)
def test_an_onnx_model_answers_as_each_text_alone(name: str, converted: dict[str, Path]) -> None:
    from olivebuild.ml.inference.onnx_runtime import OnnxRuntime

    runtime, asked = OnnxRuntime(converted[name], trust=True), questions()
    replies = runtime.ask(asked, NEW_TOKENS, ENDS)
    compare(asked, replies, plain_asking.of_genai(converted[name]), TOLERANCE)


@pytest.mark.parametrize(("name", "longer"), [("Phi-3.5", ORIGINAL + 30), ("Mistral", WINDOW + 5)])
def test_an_onnx_model_with_a_border_or_a_window_answers_as_each_text_alone(
    name: str, longer: int, tmp_path: Path
) -> None:
    from olivebuild.ml.inference.onnx_runtime import OnnxRuntime
    from olivebuild.steps.onnx import OnnxFields
    from tests.scenarios.steps import by_builder

    write(name, tmp_path / "model", dtype="float32")
    fields = OnnxFields.model_validate({"model": "m", "precision": "fp32"})
    by_builder(tmp_path / "onnx", Store(tmp_path / "cache"), fields, tmp_path / "model")
    folder = tmp_path / "onnx" / "out"
    runtime = OnnxRuntime(folder, trust=True)
    for longest in (30, longer):
        asked = questions(longest)
        compare(
            asked,
            runtime.ask(asked, NEW_TOKENS, ENDS),
            plain_asking.of_genai(folder, at_once=True),
            TOLERANCE,
        )


def test_rows_beside_a_row_change_no_bit_of_it(converted: dict[str, Path]) -> None:
    from olivebuild.ml.inference.onnx_runtime import OnnxRuntime

    runtime, asked = OnnxRuntime(converted["phi3-int4"], trust=True), questions()
    together = runtime.ask(asked, NEW_TOKENS, ENDS)
    for subset in (asked[::-1], asked[1::2], asked[:2]):
        # The beginning that is shared by fewer might be longer, and is read as one portion.
        start = Question(prompt=asked[0].prompt, completions=[])
        replies = runtime.ask([start, *subset], NEW_TOKENS, ENDS)[1:]
        assert replies == [together[asked.index(question)] for question in subset]


def test_a_runtime_whose_rewinds_are_not_right_is_given_each_prompt_anew(
    converted: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from olivebuild.ml.inference import onnx_runtime

    folder, asked = converted["llama-fp32"], questions()
    runtime = onnx_runtime.OnnxRuntime(folder, trust=True)

    def forgetful(reader: Any, count: int) -> None:
        """Goes back one token too far."""
        reader._generator.rewind_to(count - 1)
        reader._generator.append_tokens(np.array([9], np.int32))

    monkeypatch.setattr(onnx_runtime._Reader, "_rewind", forgetful)
    compare(asked, runtime.ask(asked, NEW_TOKENS, ENDS), plain_asking.of_genai(folder), TOLERANCE)
    assert "after a rewind logits differ" in capsys.readouterr().out
