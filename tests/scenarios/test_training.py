"""Training on a tiny model: layouts, masks and memory change no gradient; a killed training ends as if nothing had happened."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import RECIPE, Place, rows, write_rows
from tests.faults import amount, chance_of
from tests.tiny_models import ARCHITECTURES, make

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


def token_rows(seed: int = 0, count: int = 7) -> list[Any]:
    """Rows of several lengths; some begin alike, two are equal, one is another's beginning."""
    from olivebuild.steps._tokens import Tokens

    random = np.random.default_rng(seed)
    start = random.integers(3, 380, 9)
    made = [np.concatenate([start[: random.integers(0, 10)], random.integers(3, 380, random.integers(2, 30))]) for _ in range(count)]
    made += [made[0], made[1][:-1]]
    return [Tokens(ids.astype(np.int32), np.arange(len(ids)) >= len(ids) // 2) for ids in made]


def adapted(folder: Path, base: Any = None) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    from olivebuild.steps import _models

    torch.manual_seed(0)
    base = base or _models.load_model(folder, torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    return model


def gradient(model: Any, setup: Any, batch: list[Any]) -> tuple[float, Any]:
    import torch

    from olivebuild.steps._forward import Forward

    model.zero_grad()
    loss = Forward(model, torch.device("cpu"), setup, print).backward(batch)
    return float(loss), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "phi3 with a window"])
def test_a_packed_row_has_the_logits_it_has_alone(architecture: str, tiny_model: Path, tmp_path: Path) -> None:
    import torch

    from olivebuild.steps._forward import Forward, Setup, takes_packed
    from olivebuild.steps._layout import pack

    make(architecture.split()[0], tmp_path / "model", tiny_model, dtype="float32", **({"sliding_window": 7} if "window" in architecture else {}))
    model, batch = adapted(tmp_path / "model").eval(), token_rows()
    said: list[str] = []
    setup = takes_packed(model, batch, torch.device("cpu"), said.append)
    assert setup.packed, said
    wanted = {}
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            wanted[attention] = [model(input_ids=torch.tensor(row.ids)[None].long()).logits[0] for row in batch]
    forward = Forward(model, torch.device("cpu"), Setup(packed=True, share=True, limit=10_000), print)
    for share in (False, True):
        order = sorted(range(len(batch)), key=lambda i: batch[i].ids.tolist()) if share else range(len(batch))
        with torch.no_grad():
            found = forward.logits(pack(batch, torch.device("cpu"), share=share, grouped=True, window=getattr(model.config, "sliding_window", None)))
        for logits in wanted.values():
            alone = torch.cat([logits[i][:-1][batch[i].counted[1:]] for i in order])
            assert (found - alone).abs().max() < 1e-5


def one_length(count: int = 3, length: int = 12) -> list[Any]:
    from olivebuild.steps._tokens import Tokens

    random = np.random.default_rng(4)
    return [Tokens(random.integers(3, 380, length).astype(np.int32), np.ones(length, bool)) for _ in range(count)]


def test_what_a_card_computes_otherwise_changes_no_gradient(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from olivebuild.steps import _head
    from olivebuild.steps._forward import Setup
    from olivebuild.steps._lora import scale_while_narrow

    model, batch = adapted(llama), one_length()
    padded = gradient(model, Setup(packed=False, share=False, limit=10_000), batch)
    # Rows of one length without a mask, the loss in one pass, LoRA scaled while narrow.
    monkeypatch.setattr(_head, "_compiled_slope", lambda: _head._slope_in_one)
    scale_while_narrow(model)
    assert sum("forward" in vars(module) for module in model.modules()) == 14
    setup = Setup(packed=True, share=False, limit=10_000, grouped=False, usual=12, compiled=True)
    found = gradient(model, setup, batch)
    assert abs(found[0] - padded[0]) < 1e-5
    assert (found[1] - padded[1]).abs().max() < 1e-5


def test_a_window_that_hides_only_what_predicts_nothing_is_none(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from olivebuild.steps import _attention
    from olivebuild.steps._forward import Setup

    monkeypatch.setattr(_attention, "VARLEN", None)
    for window, hides in ((11, False), (10, True)):
        make("phi3", tmp_path / str(window), tiny_model, dtype="float32", sliding_window=window)
        model, batch = adapted(tmp_path / str(window)), one_length()
        padded = gradient(model, Setup(packed=False, share=False, limit=10_000), batch)
        setup = Setup(packed=True, share=False, limit=10_000, grouped=False, usual=12)
        if hides:
            # Left to the kernel for rows of any length.
            with pytest.raises(TypeError):
                gradient(model, setup, batch)
        else:
            assert (gradient(model, setup, batch)[1] - padded[1]).abs().max() < 1e-5


def test_layout_pieces_and_memory_change_no_gradient(llama: Path, tmp_path: Path) -> None:
    from olivebuild.steps import _forward, _head
    from olivebuild.steps._forward import Setup

    model, batch = adapted(llama), token_rows(1)
    padded = gradient(model, Setup(packed=False, share=False, limit=10_000), batch)
    for setup in (
        Setup(packed=True, share=False, limit=10_000),
        Setup(packed=True, share=True, limit=10_000),
        Setup(packed=True, share=True, limit=40),
        Setup(packed=False, share=False, limit=40),
    ):
        found = gradient(model, setup, batch)
        assert abs(found[0] - padded[0]) < 1e-5
        assert (found[1] - padded[1]).abs().max() < 1e-5
    with pytest.MonkeyPatch.context() as patch:
        # Logits in pieces, and layers computed twice.
        patch.setattr(_head, "LOGITS", 384 * 5)
        _forward.checkpoint_layers(model)
        found = gradient(model, Setup(packed=True, share=True, limit=10_000, plain_head=True), batch)
        assert (found[1] - padded[1]).abs().max() < 1e-5


def test_out_of_memory_goes_on_in_smaller_pieces(llama: Path) -> None:
    import torch

    from olivebuild.errors import StepError
    from olivebuild.steps._forward import Forward, Setup

    model, batch = adapted(llama), token_rows(2)
    wanted = gradient(model, Setup(packed=True, share=True, limit=10_000), batch)
    room, said = [85], []

    def small(module: Any, arguments: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].numel() > room[0]:
            raise torch.OutOfMemoryError

    model.register_forward_pre_hook(small, with_kwargs=True)
    forward = Forward(model, torch.device("cpu"), Setup(packed=True, share=False, limit=160), said.append)
    model.zero_grad()
    loss = float(forward.backward(batch))
    assert forward.setup.limit == 80
    assert len(said) == 1
    assert abs(loss - wanted[0]) < 1e-5
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    assert (found - wanted[1]).abs().max() < 1e-5
    room[0] = 1
    with pytest.raises(StepError, match="does not fit into memory"):
        forward.backward(batch)
    assert forward.setup.twice


def test_attention_that_is_not_known_is_padded(llama: Path) -> None:
    import torch
    from transformers import AttentionInterface

    from olivebuild.steps import _attention
    from olivebuild.steps._forward import takes_packed

    model, said = adapted(llama), []

    def leaks(module: Any, query: Any, key: Any, value: Any, mask: Any, *, rows: Any = None, **options: Any) -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True, scale=options["scaling"])
        return out.transpose(1, 2), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AttentionInterface._global_mapping, _attention.NAME, leaks)
        setup = takes_packed(model, token_rows(3), torch.device("cpu"), said.append)
    assert not setup.packed
    assert "logits would differ by" in said[0]


# Tokens


def write_table(path: Path, format_: str, table: list[dict[str, str]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in table[0]], metadata={"format": format_})
    pq.write_table(pa.Table.from_pylist(table, schema=schema), path)
    return str(path)


def test_an_edited_row_has_its_own_shard_tokenised_again(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from olivebuild.steps import _encode, _models
    from olivebuild.steps._tokens import Encoder, Tokens
    from olivebuild.store import Store
    from tests.scenarios.steps import job_in

    monkeypatch.setattr(_encode, "SHARD", 8)
    monkeypatch.setattr(_encode, "LARGEST", 32)
    job = job_in(tmp_path / "job", Store(tmp_path / "cache"))
    table = [{"prompt": f"I am {i} ", "completion": "glad" * (i % 5 + 1), "label": ""} for i in range(300)]

    def encoded(length: int = 100) -> Any:
        encoder = Encoder(_models.load_tokenizer(tiny_model), length)
        found = _encode.token_rows(job, encoder, str(tiny_model), write_table(tmp_path / "train.parquet", "prompt", table), "completion")
        single = Encoder(encoder.tokenizer, length)
        for row, given in zip(found, table, strict=True):
            wanted = Tokens.of(single.encode("prompt", given))
            assert row.ids.tolist() == wanted.ids.tolist()
            assert row.counted.tolist() == wanted.counted.tolist()
        assert found.truncated == single.truncated
        assert sum(found.figures()["lengths"].values()) == len(found) == found.figures()["rows"]
        return found

    first = encoded()
    assert len(first.shards) > 20
    assert first.known == 0
    assert encoded().known == len(first.shards)
    table[150] = table[150] | {"prompt": "She was "}
    again = encoded()
    assert len(again.shards) - again.known <= 2
    table.insert(10, table[0] | {"prompt": "We were "})
    assert len(again.shards) + 1 - encoded().known <= 3
    short = encoded(6)
    assert short.known == 0
    assert short.truncated > 0
    # A damaged blob is tokenised again.
    for blob in (tmp_path / "cache/blobs").glob("??/*"):
        blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    assert encoded().known == 0


def test_what_is_counted(tiny_model: Path) -> None:
    import json

    from olivebuild.steps import _models
    from olivebuild.steps._tokens import Encoder

    encoder = Encoder(_models.load_tokenizer(tiny_model), 1000)
    turns = [("user", "I am glad"), ("assistant", "joy"), ("user", "I am afraid"), ("assistant", "fear")]
    chat = [{"messages": json.dumps([{"role": role, "content": text} for role, text in turns])}]

    def counted(format_: str, table: list[dict[str, str]], loss: str) -> str:
        (row,) = encoder.tokens(format_, table, loss)
        return str(encoder.tokenizer.decode(row.ids[row.counted]))

    assert counted("messages", chat, "completion") == "fear<|endoftext|>"
    assert counted("messages", chat, "turns") == "joy<|end|>\nfear<|end|>\n"
    assert counted("messages", chat, "all").count("<|user|>") == 2
    assert counted("text", [{"text": "a long night"}], "completion") == "a long night<|endoftext|>"
    assert counted("prompt", [{"prompt": "I am ", "completion": "sad"}], "all") == "I am sad<|endoftext|>"


# The loop, in this process


class Stopped(Exception):
    """As if the process had been killed."""


def fit(folder: Path, model: Path, batch_rows: list[Any], training: dict[str, Any], *, stop_at: int = 0, held_out: Any = None, **fields: Any) -> Any:
    """Train in this process, with the cache in `folder`; the loop, and what it said."""
    import torch

    from olivebuild.executor import ActionInput
    from olivebuild.steps import _train
    from olivebuild.steps.adapter import AdapterFields
    from olivebuild.store import Store
    from olivebuild.worker import Job
    from tests.scenarios.steps import job_in

    said: list[dict[str, Any]] = []

    class Listening(Job):
        def say(self, event: str, **data: Any) -> None:
            said.append({"event": event, **data})
            if event == "metric" and data["step"] == stop_at:
                raise Stopped

    given = {"model": ActionInput(str(model), str(model), "model", "base", digest="0"), **fields.pop("inputs", {})}
    job = Listening(job_in(folder / f"job{len(list(folder.glob('job*')))}", Store(folder), given).action, None)
    asked = {"model": "base", "data": "tone", "r": 4, "training": {"lr": 1e-3, "batch": 4, "checkpoint_steps": 1} | training}
    loop = _train.fit(job, AdapterFields.model_validate(asked | fields), batch_rows, held_out, torch.device("cpu"), torch.float32)
    return loop, said


def bytes_of(loop: Any) -> bytes:
    return b"".join(weight.detach().numpy().tobytes() for weight in loop.weights)


def test_stopped_at_random_steps_it_ends_the_same(llama: Path, tmp_path: Path) -> None:
    batch, training, dropout = token_rows(5, 20), {"steps": 14}, {"dropout": 0.2}
    wanted = bytes_of(fit(tmp_path / "quiet", llama, batch, training, **dropout)[0])
    chance = random.Random(0)
    for round_ in range(6):
        cache = tmp_path / f"cache{round_}"
        for step in sorted(chance.sample(range(2, 15), 3)):
            with pytest.raises(Stopped):
                fit(cache, llama, batch, training, stop_at=step, **dropout)
        loop, said = fit(cache, llama, batch, training, **dropout)
        assert any("going on from step" in str(e.get("text")) for e in said)
        assert bytes_of(loop) == wanted


def test_a_full_disk_and_a_torn_state_cost_only_time(llama: Path, tmp_path: Path) -> None:
    from olivebuild.steps import _checkpoint

    batch, training = token_rows(6, 12), {"steps": 8}
    wanted = bytes_of(fit(tmp_path / "quiet", llama, batch, training)[0])
    with pytest.raises(Stopped):
        fit(tmp_path, llama, batch, training, stop_at=4)
    (kept,) = (tmp_path / "checkpoints").glob("*")
    with pytest.MonkeyPatch.context() as patch:

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(_checkpoint, "save_file", full)
        with pytest.raises(Stopped):
            fit(tmp_path, llama, batch, training, stop_at=6)
        state = _checkpoint.read(kept)
        assert state
        assert state.step == 3
        loop, said = fit(tmp_path, llama, batch, training)
        assert bytes_of(loop) == wanted
        assert sum("could not be kept" in str(e.get("text")) for e in said) == 1
    data = bytearray(kept.read_bytes())
    data[-5] ^= 1
    kept.write_bytes(data)
    assert _checkpoint.read(kept) is None
    loop, said = fit(tmp_path, llama, batch, training)
    assert not any("going on" in str(e.get("text")) for e in said)
    assert bytes_of(loop) == wanted


@pytest.mark.parametrize("rows_before", [200, 150])
def test_appended_rows_cost_what_they_are(rows_before: int, llama: Path, tmp_path: Path) -> None:
    batch, training = token_rows(7, 200), {"order": "append", "checkpoint_steps": None}
    edited = batch[:rows_before] + token_rows(8, 2)
    clean = bytes_of(fit(tmp_path / "clean", llama, edited, training, dropout=0.1)[0])
    assert fit(tmp_path, llama, batch, training, dropout=0.1)[0].known == 0
    loop, _ = fit(tmp_path, llama, edited, training, dropout=0.1)
    assert bytes_of(loop) == clean
    if rows_before == 200:
        assert (loop.schedule.steps - loop.known) / loop.schedule.steps <= 0.15
    else:
        # An edit in the middle leaves the part before it.
        assert 0.5 * loop.schedule.steps < loop.known < 0.9 * loop.schedule.steps


def test_held_out_rows_end_a_training_and_choose_its_best_weights(llama: Path, tmp_path: Path) -> None:
    from olivebuild.steps._evaluate import Evaluation

    def evaluation() -> Evaluation:
        return Evaluation(token_rows(10), 2, 2, best=True)

    batch, training = token_rows(9, 12), {"steps": 60, "lr": 3e-2}
    loop, said = fit(tmp_path / "quiet", llama, batch, training, held_out=evaluation())
    found = loop.evaluation
    assert loop.step < 60
    assert found.losses.index(min(found.losses)) == len(found.losses) - 3
    assert loop.forward.judge(found.rows)[0] == pytest.approx(min(found.losses) * sum(r.labels for r in found.rows), rel=1e-4)
    assert [e["eval_loss"] for e in said if "eval_loss" in e] == found.losses
    # The best weights so far outlive a stop.
    with pytest.raises(Stopped):
        fit(tmp_path, llama, batch, training, stop_at=loop.step - 1, held_out=evaluation())
    again, _ = fit(tmp_path, llama, batch, training, held_out=evaluation())
    assert again.evaluation.losses == found.losses
    assert bytes_of(again) == bytes_of(loop)


def test_a_loss_that_runs_away_ends_the_training(llama: Path, tmp_path: Path) -> None:
    from olivebuild.errors import StepError

    batch = token_rows(11, 12)
    with pytest.raises(StepError, match=r"the loss became nan at step [23]"):
        fit(tmp_path / "a", llama, batch, {"steps": 20, "lr": 1e38})
    # A tiny model's norms keep its loss from growing far, so the figures are given; one bad batch is no reason yet.
    loop, _ = fit(tmp_path / "b", llama, batch, {"steps": 2})
    loop._note(3, 30.0, 1.0)
    with pytest.raises(StepError, match="the loss ran away"):
        [loop._note(3, 30.0, 1.0) for _ in range(10)]


def test_training_begins_with_another_adapter(llama: Path, tmp_path: Path) -> None:
    from olivebuild.errors import InputError
    from olivebuild.executor import ActionInput
    from olivebuild.steps import _train

    first, _ = fit(tmp_path / "a", llama, token_rows(12, 8), {"steps": 6})
    saved = tmp_path / "adapter"
    saved.mkdir()
    _train.save_adapter(first.forward.model, saved, "base")
    given = {"from": ActionInput(str(saved), str(saved), "adapter", "first")}
    loop, _ = fit(tmp_path / "b", llama, token_rows(12, 8), {"steps": 6}, inputs=given, **{"from": "first"})
    assert loop.progress.losses[0] < first.progress.losses[0] - 0.01
    with pytest.raises(InputError, match="the adapter to begin with differs"):
        fit(tmp_path / "c", llama, token_rows(12, 8), {"steps": 6}, inputs=given, **{"from": "first", "r": 8})


# The whole step

TRAINING = "training: {lr: 1e-3, steps: 12, batch: 4, checkpoint_steps: 1}"


@pytest.fixture
def place(tiny_model: Path, tmp_path: Path) -> Place:
    made = Place(tmp_path / "work", tmp_path / "cache")
    shutil.copytree(tiny_model, made.folder / "tiny")
    write_rows(made.folder / "data/tone.jsonl", rows())
    made.recipe.write_text(RECIPE.replace("training: {lr: 1e-3, steps: 4, batch: 4}", TRAINING).replace("alpha: 8", "alpha: 8\n    dropout: 0.1"))
    return made


def kill_at_some_step(place: Place, wait: float, how: signal.Signals) -> None:
    """Start a build, and kill it `wait` seconds after its state was first seen to change."""
    process = place.start("build", "adapter")
    kept = place.cache / "checkpoints"
    before = {p: p.stat().st_mtime_ns for p in kept.glob("*.safetensors")}
    while process.poll() is None:
        if {p: p.stat().st_mtime_ns for p in kept.glob("*.safetensors")} != before:
            time.sleep(wait)
            process.send_signal(how)
            break
        time.sleep(0.002)
    process.communicate()


def kills(place: Place, count: int) -> None:
    """Kill builds until one ends; its adapter is that of one that was never disturbed."""
    quiet = Place(place.folder, place.cache.parent / "quiet")
    assert quiet.run("adapter").code == 0
    wanted = quiet.built("adapter", "adapter_model.safetensors")
    chance = chance_of("training")
    for _ in range(count):
        shutil.rmtree(place.folder / "build")
        kill_at_some_step(place, chance.uniform(0, 0.15), chance.choice([signal.SIGKILL, signal.SIGINT]))
        done = place.build("adapter")
        assert done.code == 0, done.err
        notes = [e["text"] for e in done.events if e["event"] == "note"]
        assert any("going on from step" in n for n in notes) or "adapter" not in done.ran
        assert place.built("adapter", "adapter_model.safetensors") == wanted
        assert not list((place.cache / "checkpoints").glob("*"))
        # The same once more, from nothing.
        shutil.rmtree(place.cache)


def test_a_killed_training_goes_on_and_ends_the_same(place: Place) -> None:
    kills(place, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills(place: Place) -> None:
    kills(place, amount("KILLS", 50))


@pytest.mark.parametrize("options", ["method: qlora", "dora: true", "rslora: true"])
def test_other_methods_go_through_to_int4(options: str, place: Place) -> None:
    place.edit("kind: adapter", f"kind: adapter\n    {options}")
    place.edit("steps: 12", "steps: 3")
    done = place.build("onnx-int4")
    assert done.code == 0, done.err
    if options == "method: qlora":
        place.edit("adapter: adapter}", "adapter: adapter, onto: dequantised}")
        done = place.build("onnx-int4")
        assert done.ran == ["merged", "onnx-int4"], done.err


def test_dequantised_weights_are_those_that_were_trained_on(llama: Path, tmp_path: Path) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit

    from olivebuild.steps import _models, _quantised
    from olivebuild.steps._forward import Forward, Setup
    from olivebuild.steps.adapter import Quantisation
    from olivebuild.store import Store
    from tests.scenarios.steps import job_in

    options = Quantisation()
    trained_on = _models.load_model(llama, torch.float32, quantised=_quantised.configuration(options, torch.float32))
    _quantised.note(tmp_path, options)
    model = _models.load_model(llama, torch.float32)
    _quantised.as_trained_on(job_in(tmp_path / "job", Store(tmp_path / "cache")), model, tmp_path)
    # A look at 4-bit weights without gradients must not spoil the gradients after it.
    _quantised.for_training(trained_on)
    batch, setup = token_rows(4), Setup(packed=True, share=True, limit=10_000)
    quantised = adapted(llama, trained_on)
    Forward(quantised, torch.device("cpu"), setup, print).judge(batch)
    assert (gradient(quantised, setup, batch)[1] - gradient(adapted(llama, model), setup, batch)[1]).abs().max() < 1e-5
    trained_on, model = quantised.unload(), _models.load_model(llama, torch.float32)
    _quantised.as_trained_on(job_in(tmp_path / "again", Store(tmp_path / "cache")), model, tmp_path)
    found = dict(model.named_parameters())
    changed = [name for name, weight in trained_on.named_parameters() if hasattr(weight, "quant_state")]
    assert len(changed) == 14
    for name, weight in trained_on.named_parameters():
        given = dequantize_4bit(weight.data, weight.quant_state) if name in changed else weight
        assert torch.equal(found[name], given)
