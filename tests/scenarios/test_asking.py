"""chat and predict with a tiny model: the answers are transformers' own, a broken run goes on,
Ctrl-C stops an answer and not the model.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Place, rows, write_rows
from tests.support.terminal import Terminal

pytestmark = pytest.mark.scenario
TOKENS = 24


def greedy(folder: Path, prompts: list[str]) -> list[str]:
    """What transformers generates, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        # It stops where the folder says, which is where the adapter was taught to.
        assert set(model.generation_config.eos_token_id) == {
            tokenizer.eos_token_id,
            tokenizer.convert_tokens_to_ids("<|end|>"),
        }
        out = model.generate(ids, do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)[
            0, ids.shape[1] :
        ].tolist()
        end = next(
            (i for i, token in enumerate(out) if token in model.generation_config.eos_token_id),
            len(out),
        )
        answers.append(tokenizer.decode(out[:end]).strip())
    return answers


def test_predictions_are_those_of_transformers_and_a_broken_run_goes_on(
    copied: Place, one_thread: None
) -> None:
    asked = [{"phrase": f"{row['phrase']} {i}"} for i in range(4) for row in rows()]
    write_rows(copied.folder / "in.jsonl", asked)
    command = ("predict", "merged", "--in", "in.jsonl", "--max-tokens", str(TOKENS))
    whole = copied.run(*command)
    found = [json.loads(line) for line in whole.out.splitlines()]
    assert [{"phrase": row["phrase"]} for row in found] == asked
    prompts = [f"<|user|>\n{row['phrase']}<|end|>\n<|assistant|>\n" for row in asked[::8]]
    assert [row["prediction"] for row in found[::8]] == greedy(
        copied.folder / "build/merged", prompts
    )

    broken = copied.start(*command, "--out", "out.jsonl")
    while not any(p.stat().st_size for p in copied.folder.glob("out.jsonl.*.part")):
        assert broken.poll() is None
        time.sleep(0.01)
    broken.send_signal(signal.SIGINT)
    _, err = broken.communicate()
    assert broken.returncode == 130
    assert "of 128 rows are kept" in err
    assert not (copied.folder / "out.jsonl").exists()
    (part,) = copied.folder.glob("out.jsonl.*.part")
    assert 0 < part.read_text().count("\n") < len(asked)
    again = copied.run(*command, "--out", "out.jsonl")
    assert "of them from before" in again.err
    assert (copied.folder / "out.jsonl").read_text() == whole.out
    assert not part.exists()


def test_an_adapter_answers_on_its_base_and_onnx_what_is_piped_in(copied: Place) -> None:
    write_rows(
        copied.folder / "in.jsonl",
        [{"prompt": f"<|user|>\n{row['phrase']}<|end|>\n<|assistant|>\n"} for row in rows()[:4]],
    )
    merged, adapter = (
        copied.run("predict", target, "--in", "in.jsonl", "--max-tokens", "6")
        for target in ("merged", "adapter")
    )
    assert merged.code == 0, merged.err
    assert adapter.out == merged.out
    command = [sys.executable, "-m", "olivebuild", "chat", "onnx-int4", "--max-tokens", "6"]
    environment = os.environ | {"OLIVEBUILD_CACHE": str(copied.cache)}
    done = subprocess.run(
        command,
        cwd=copied.folder,
        env=environment,
        input="I am glad\n\nand sad\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    (note,) = done.stderr.splitlines()
    assert note.startswith("note: each line is asked by itself, in the template of tone")
    # Two turns, each with an answer of its own.
    assert done.stdout.count("\n") >= 2
    assert len(set(done.stdout.splitlines())) > 1


def test_what_was_built_last_is_asked_as_it_is(copied: Place) -> None:
    """An edited row makes the adapter stale; what it is, and what a build costs, is said."""
    write_rows(copied.folder / "in.jsonl", rows()[:2])
    command = ("predict", "adapter", "--in", "in.jsonl", "--max-tokens", "4")
    before = copied.run(*command)
    assert before.code == 0, before.err
    data = rows()
    data[0] = {"phrase": "I am quite another row", "tone": "joy"}
    write_rows(copied.folder / "data/tone.jsonl", data)
    after = copied.run(*command, "--as-is")
    assert (after.code, after.out) == (0, before.out)
    assert after.err.startswith("note: adapter is not up to date (tone: file data/tone.jsonl: "), (
        after.err
    )
    assert "a build takes about" in after.err
    # What is not in build/ any more comes from the cache, and build/ stays as it is.
    shutil.rmtree(copied.folder / "build/adapter")
    assert copied.run(*command, "--as-is").out == before.out
    assert not (copied.folder / "build/adapter").exists()
    built = copied.run(*command)
    assert built.code == 0, built.err
    assert "--as-is asks what was built last" in built.err
    assert "run      adapter" in built.err


def test_ctrl_c_stops_an_answer_and_twice_ends(copied: Place) -> None:
    terminal = Terminal(copied, 100, 60, "chat", "base", "--max-tokens", "480")

    def until_asked() -> int:
        """How much was written, once the prompt is there."""
        while terminal.lines()[-1:] != [">"]:
            assert terminal.read_some(), terminal.lines()
        return sum(map(len, terminal.lines()))

    until_asked()
    terminal.type("I am glad\n")
    while len(terminal.lines()) < 2:
        terminal.read_some()
    terminal.type("\x03")
    stopped = until_asked()
    # The model is still there, and an answer that nobody stops is longer.
    terminal.type("/new\nI am glad\n")
    while terminal.lines()[-1:] == [">"]:
        terminal.read_some()
    assert until_asked() > 2 * stopped
    terminal.type("\x03")
    terminal.read("Ctrl-C again ends")
    terminal.type("\x03")
    terminal.read()
    assert terminal.code() == 130
    os.close(terminal.fd)


def test_text_comes_as_soon_as_it_is_certain(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    from olivebuild.ml.inference.generate import Decoder

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    text = "I am glad: käse, 日本, 🙂 today"
    decoder = Decoder(tokenizer)
    pieces = [decoder.add(token) for token in tokenizer(text)["input_ids"]]
    assert "".join([*pieces, decoder.rest()]) == text
    assert pieces[0]
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    # Half a character at the end is told as what it is.
    cut = Decoder(tokenizer)
    assert "".join(cut.add(token) for token in tokenizer("🙂")["input_ids"][:2]) == ""
    assert cut.rest() == "\N{REPLACEMENT CHARACTER}"


def test_a_temperature_draws_by_the_softmax_and_none_takes_the_likeliest() -> None:
    import numpy as np

    from olivebuild.ml.inference.generate import choose

    logits, draw = np.array([0.0, 2.0, 1.0, -9.0], dtype=np.float32), np.random.default_rng(0)
    assert {choose(logits, 0, draw) for _ in range(20)} == {1}
    for temperature in (0.5, 2.0):
        found = (
            np.bincount([choose(logits, temperature, draw) for _ in range(20_000)], minlength=4)
            / 20_000
        )
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        assert np.abs(found - expected).max() < 0.015
