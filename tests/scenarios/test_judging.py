"""What a model is judged by is right: against evaluations written here, with plain ONNX Runtime and
plain transformers, without any cache.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from olivebuild.api.action import ActionInput
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError, StepError
from olivebuild.ml.kinds.measurements import accuracy as benchmark_accuracy_kind
from tests.conftest import Place
from tests.scenarios.steps import job_in

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]
END = 2
"""The end token of the tests' tokenizer, which completes a text."""
TURN = 5
"""The token that ends every answer of the tests' rows, as they are written."""


def judged(
    place: Place,
    root: Path,
    model: str,
    data: Path | None = None,
    files: dict[str, list[str]] | None = None,
    base: str = "",
    **fields: Any,
) -> dict[str, Any]:
    """The figures of one model on the test rows; of the adapter `model` if it has a `base`."""
    folder = str(place.folder / "build" / model)
    table = str(data or place.folder / "build/tone/test.parquet")
    inputs = {
        "model": ActionInput(folder, folder, "model", model),
        "data[0]": ActionInput(table, table, "dataset", "tone"),
    }
    if base:
        inputs |= {
            "model": ActionInput(base, base, "model", "base"),
            "adapter": ActionInput(folder, folder, "adapter", model),
        }
        fields["adapter"] = True
    job = job_in(
        root, Store(place.cache), inputs, fields={"max_new_tokens": 5, **fields}, files=files or {}
    )
    benchmark_accuracy_kind.run(job)
    figures: dict[str, Any] = json.loads((job.out / "metrics.json").read_text())[0]
    return figures


def rows_of(place: Place) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    table = pq.read_table(place.folder / "build/tone/test.parquet")
    return table.to_pylist(), [tuple(pair) for pair in json.loads(table.schema.metadata[b"labels"])]


class PlainOnnx:
    """Logits of whole sequences, by onnxruntime and numpy alone: nothing is kept from one call to
    the next.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        nothing = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        self._empty = {
            i.name: nothing
            for i in self._session.get_inputs()
            if i.name.startswith("past_key_values")
        }

    def __call__(self, ids: list[int]) -> np.ndarray:
        feed = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            **self._empty,
        }
        logits: np.ndarray = np.asarray(self._session.run(["logits"], feed)[0], np.float64)[0]
        return logits


def nll(logits: np.ndarray, prompt: int, ids: list[int]) -> float:
    """Of the tokens after the prompt, in nats."""
    at = logits[prompt - 1 : len(ids) - 1]
    shifted = at - at.max(-1, keepdims=True)
    log_shares = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -float(log_shares[np.arange(len(at)), ids[prompt:]].sum())


def independent(place: Place, model: Any) -> dict[str, Any]:
    tokenizer = Tokenizer.from_file(str(place.folder / "tiny/tokenizer.json"))
    rows, labels = rows_of(place)
    answers = []
    for row in rows:
        prompt = tokenizer.encode(row["prompt"]).ids
        scores = {}
        for label, completion in labels:
            ids = tokenizer.encode(row["prompt"] + completion).ids
            assert (ids[: len(prompt)], ids[-1]) == (prompt, TURN)
            scores[label] = nll(model(ids), len(prompt), ids)
        written, room = list(prompt), max(len(tokenizer.encode(c).ids) for _, c in labels)
        while len(written) < len(prompt) + min(5, room):
            token = int(model(written)[-1].argmax())
            if token in (END, TURN):
                break
            written.append(token)
        text = tokenizer.decode(written[len(prompt) :], skip_special_tokens=False).strip()
        answers.append(
            {
                "label": min(scores, key=lambda name: scores[name]),
                "nll": scores[row["label"]],
                "text": text,
                "expected": row["label"],
            }
        )
    return {"accuracy": np.mean([a["label"] == a["expected"] for a in answers]), "answers": answers}


def agree(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> None:
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=1e-6)
    assert [(a["expected"], a["label"], a["text"]) for a in ours["answers"]] == [
        (a["expected"], a["label"], a["text"]) for a in theirs["answers"]
    ]
    assert [a["nll"] for a in ours["answers"]] == pytest.approx(
        [a["nll"] for a in theirs["answers"]], abs=tolerance
    )
    total = sum(a["nll"] for a in theirs["answers"]) / ours["tokens"]
    assert ours["perplexity"] == pytest.approx(np.exp(total), rel=tolerance)


def test_an_onnx_model_is_judged_as_plain_onnxruntime_judges_it(
    copied: Place, tmp_path: Path
) -> None:
    ours = judged(copied, tmp_path, "onnx-int4")
    assert ours["rows"] == 8
    agree(ours, independent(copied, PlainOnnx(copied.folder / "build/onnx-int4")), 2e-4)


def test_a_hugging_face_model_is_judged_as_without_cache_and_batches(
    copied: Place, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        copied.folder / "build/merged", dtype=torch.float32
    )

    def logits(ids: list[int]) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(
                model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().numpy()
            )

    agree(judged(copied, tmp_path / "a", "merged"), independent(copied, logits), 2e-4)


def test_an_adapter_answers_on_its_base_as_the_merge_of_both(copied: Place, tmp_path: Path) -> None:
    merged = judged(copied, tmp_path / "merged", "merged")
    base = str(copied.folder / "tiny")
    ours = judged(copied, tmp_path / "adapter", "adapter", base=base)
    assert [(a["label"], a["text"]) for a in ours["answers"]] == [
        (a["label"], a["text"]) for a in merged["answers"]
    ]
    assert [a["nll"] for a in ours["answers"]] == pytest.approx(
        [a["nll"] for a in merged["answers"]], rel=1e-3
    )
    assert judged(copied, tmp_path / "base", base)["perplexity"] != pytest.approx(
        ours["perplexity"], rel=1e-3
    )


def text_set(place: Place, texts: list[str]) -> Path:
    import pyarrow as pa

    file = place.folder / "text.parquet"
    schema = pa.schema(
        [("text", pa.string()), ("label", pa.string())], metadata={"format": "text", "labels": "[]"}
    )
    pq.write_table(pa.table({"text": texts, "label": [""] * len(texts)}, schema=schema), file)
    return file


def test_perplexity_of_texts_is_that_of_their_tokens(copied: Place, tmp_path: Path) -> None:
    texts = ["I am afraid of the river today", "the last train"]
    data = text_set(copied, texts)
    plain, tokenizer = (
        PlainOnnx(copied.folder / "build/onnx-int4"),
        Tokenizer.from_file(str(copied.folder / "tiny/tokenizer.json")),
    )
    total, count = 0.0, 0
    for text in texts:
        ids = [*tokenizer.encode(text).ids, END]
        total += nll(plain(ids), 1, ids)
        count += len(ids) - 1
    ours = judged(copied, tmp_path / "a", "onnx-int4", data)
    assert (ours["rows"], ours["tokens"]) == (2, count)
    assert ours["perplexity"] == pytest.approx(np.exp(total / count), rel=1e-4)
    assert judged(copied, tmp_path / "b", "merged", data)["tokens"] == count
    assert "accuracy" not in ours
    assert "generated_accuracy" not in ours


def test_scores_of_ones_own_are_asked_of_every_answer(copied: Place, tmp_path: Path) -> None:
    file = copied.folder / "eval.py"
    file.write_text(
        "def brevity(text, row):\n    return 1 / (1 + len(text)) if row['label'] else "
        "None\n\n\ndef odd(text, row):\n    return 'much'\n"
    )
    files = {"score.0": [str(file)]}
    ours = judged(copied, tmp_path / "a", "onnx-int4", files=files, score=["eval.py:brevity"])
    each = [1 / (1 + len(a["text"])) for a in ours["answers"]]
    assert [a["scores"]["brevity"] for a in ours["answers"]] == pytest.approx(each)
    assert ours["scores"] == {"brevity": pytest.approx(np.mean(each), abs=1e-6)}
    with pytest.raises(StepError, match="odd gave 'much' for"):
        judged(copied, tmp_path / "b", "onnx-int4", files=files, score=["eval.py:odd"])
    with pytest.raises(InputError, match=r"eval.py has no function long"):
        judged(copied, tmp_path / "c", "onnx-int4", files=files, score=["eval.py:long"])


def test_a_model_that_can_not_write_json_writes_none_that_is_valid(
    copied: Place, tmp_path: Path
) -> None:
    schema = copied.folder / "schema.json"
    schema.write_text('{"type": "object", "required": ["tone"]}')
    rows, _ = rows_of(copied)
    import pyarrow as pa

    data = copied.folder / "json.parquet"
    columns = {
        "prompt": [r["prompt"] for r in rows],
        "completion": [json.dumps({"tone": r["label"]}) for r in rows],
        "label": [""] * len(rows),
    }
    pq.write_table(
        pa.table(columns).replace_schema_metadata({"format": "prompt", "labels": "[]"}), data
    )
    ours = judged(
        copied,
        tmp_path / "a",
        "onnx-int4",
        data,
        {"json_schema": [str(schema)]},
        json_schema="schema.json",
    )
    assert (ours["schema_valid"], ours["field_exact"], ours["json_exact"]) == (0.0, 0.0, 0.0)
    assert ours["fields"] == {"tone": {"rows": 8, "exact": 0.0}}
    assert "accuracy" not in ours
    with pytest.raises(InputError, match="the right answer is not JSON"):
        judged(
            copied,
            tmp_path / "b",
            "onnx-int4",
            files={"json_schema": [str(schema)]},
            json_schema="schema.json",
        )


def test_seeds_train_again_and_say_how_far_that_alone_moves_a_figure(copied: Place) -> None:
    fields = (
        "models: [onnx-int4], data: tone, seeds: 2, metrics: [count], latency: {max_rounds: 1, "
        "rounds: 1}"
    )
    fields += ', gates: ["count.rows >= 32", "perplexity_worst > 1", "accuracy_mean >= 1.1"]'
    command = (
        "count: {kind: command, run: python count.py, files: [data/tone.jsonl], outputs: "
        "[n.json], metrics: n.json}"
    )
    copied.recipe.write_text(
        copied.recipe.read_text() + f"  bench: {{kind: benchmark, {fields}}}\n  {command}\n"
    )
    count = "import os\nrows = len(open('data/tone.jsonl').readlines())\n"
    (copied.folder / "count.py").write_text(
        count
        + "open(os.environ['OLIVEBUILD_OUT'] + '/n.json', 'w').write('{\"rows\": %d}' % rows)\n"
    )
    done = copied.build("bench")
    # No accuracy is more than 1: that gate is missed.
    assert done.code == 3, done.err
    metrics = json.loads(copied.built("bench", "metrics.json"))
    figures = metrics["models"]["onnx-int4"]
    assert metrics["commands"] == {"count": {"rows": 32}}
    assert [row["seed"] for row in figures["seeds"]] == [1]
    each = [figures["data"]["tone"], figures["seeds"][0]["data"]["tone"]]
    assert each[0]["perplexity"] != each[1]["perplexity"]
    over = figures["data"]["tone"]["over_seeds"]
    assert over["perplexity"]["values"] == [row["perplexity"] for row in each]
    assert over["accuracy"]["mean"] == pytest.approx(
        (each[0]["accuracy"] + each[1]["accuracy"]) / 2
    )
    worst, mean = max(row["perplexity"] for row in each), over["accuracy"]["mean"]
    gates = [
        ("count.rows >= 32", 32, True),
        ("perplexity_worst > 1", worst, True),
        ("accuracy_mean >= 1.1", mean, False),
    ]
    assert [(g["gate"], g["value"], g["passed"]) for g in done.end["gates"]] == gates
    assert {path.name for path in (copied.folder / "build").iterdir()} == {
        "bench",
        "count",
        "merged",
        "onnx-int4",
        "tone",
        "adapter",
    }
    assert copied.build("bench").ran == []
    # The recipe's own adapter with that seed has the same key. Of its merge, which a conversion
    # alone read, no tensors were kept.
    again = copied.build("onnx-int4", "--set", "adapter.training.seed=1")
    assert again.ran == ["merged"], again.err
