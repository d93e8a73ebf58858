"""Training on a tiny model: a killed training ends as if nothing had happened; appended rows,
held-out rows, methods up to int4.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RECIPE, Place, rows, write_rows
from tests.scenarios.training import Stopped, adapted, bytes_of, fit, gradient, token_rows
from tests.support.faults import amount, chance_of

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


def test_stopped_at_random_steps_it_ends_the_same(llama: Path, tmp_path: Path) -> None:
    batch, training = token_rows(5, 20), {"steps": 14}
    dropout: dict[str, Any] = {"dropout": 0.2}
    wanted = bytes_of(fit(tmp_path / "quiet", llama, batch, training, **dropout)[0])
    chance = random.Random(0)
    for round_ in range(6):
        cache = tmp_path / f"cache{round_}"
        for step in sorted(chance.sample(range(2, 15), 3)):
            with pytest.raises(Stopped):
                fit(cache, llama, batch, training, stop_at=step, **dropout)
        loop, said = fit(cache, llama, batch, training, **dropout)
        assert any("resuming from step" in str(e.get("text")) for e in said)
        assert bytes_of(loop) == wanted


def test_figures_that_are_read_a_step_later_are_the_same(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.ml.training.loop import TrainingLoop
    from olivebuild.ml.training.validation import Validation

    def trained(name: str, **more: Any) -> Any:
        validation = Validation(token_rows(10), 5, None, best=True)
        return fit(
            tmp_path / name,
            llama,
            token_rows(5, 20),
            {"steps": 14, "checkpoint_steps": 4},
            held_out=validation,
            dropout=0.2,
            **more,
        )

    quiet, said = trained("quiet")
    make = TrainingLoop.__init__

    def pipelined(loop: TrainingLoop, *arguments: Any) -> None:
        make(loop, *arguments)
        loop.steps_in_flight = 1

    monkeypatch.setattr(TrainingLoop, "__init__", pipelined)
    with pytest.raises(Stopped):
        trained("later", stop_at=10)
    later, rest = trained("later")
    assert any("resuming from step 8 of 14" in str(e.get("text")) for e in rest)
    assert bytes_of(later) == bytes_of(quiet)
    assert later.progress.curve() == quiet.progress.curve()
    steps = [e["step"] for e in said if "loss" in e]
    assert [e["step"] for e in rest if "loss" in e] == steps[8:]


@pytest.mark.parametrize("method", [{}, {"dropout": 0.3}])
def test_sample_answers_change_no_bit(method: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.inference.sample_answers import SampleAnswers
    from olivebuild.ml.models.load import load_tokenizer
    from olivebuild.steps.parts.training import Training

    batch, training = token_rows(3, 40), {"steps": 12}
    samples = SampleAnswers(Encoder(load_tokenizer(llama)), batch, Training(sample_answers=2))
    # Whatever they cost: these rows are few and short.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("olivebuild.ml.inference.sample_answers.SHARE", 1e9)
        patch.setattr("olivebuild.ml.inference.sample_answers.MOST_TIME", 1e9)
        with_samples, said = fit(tmp_path / "a", llama, batch, training, samples=samples, **method)
    without, _ = fit(tmp_path / "b", llama, batch, training, **method)
    assert bytes_of(with_samples) == bytes_of(without)
    assert with_samples.progress.losses == without.progress.losses
    told = [event for event in said if event["event"] == "sample"]
    assert [event["step"] for event in told] == [2, 2, 4, 4, 6, 6, 8, 8, 10, 10]
    assert [event["answer"] for event in told] == [row["answer"] for row in samples.record]


def test_a_training_that_other_numerics_began_restarts(llama: Path, tmp_path: Path) -> None:
    """Half of each of two machines' numbers would be what neither gives."""
    batch, training = token_rows(5, 20), {"steps": 6}
    wanted = bytes_of(fit(tmp_path / "whole", llama, batch, training)[0])
    here = {"threads": "1"}
    for there, told in (
        ({"threads": "8"}, "other numerics (threads 8, here 1): the training restarts"),
        (here, "resuming from step"),
    ):
        with pytest.raises(Stopped):
            fit(tmp_path / "cache", llama, batch, training, stop_at=3, numerics=there)
        loop, said = fit(tmp_path / "cache", llama, batch, training, numerics=here)
        assert [told in text for e in said if "step" in (text := str(e.get("text")))] == [True]
        assert bytes_of(loop) == wanted
        for state in (tmp_path / "cache/checkpoints").glob("*"):
            state.unlink()


def test_a_full_disk_and_a_torn_state_cost_only_time(llama: Path, tmp_path: Path) -> None:
    from olivebuild.ml.training import checkpoint

    batch, training = token_rows(6, 12), {"steps": 8}
    wanted = bytes_of(fit(tmp_path / "quiet", llama, batch, training)[0])
    with pytest.raises(Stopped):
        fit(tmp_path, llama, batch, training, stop_at=4)
    (kept,) = (tmp_path / "checkpoints").glob("*")
    with pytest.MonkeyPatch.context() as patch:

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(Stopped):
            fit(tmp_path, llama, batch, training, stop_at=6)
        state = checkpoint.read(kept)
        assert state
        assert state.step == 3
        loop, said = fit(tmp_path, llama, batch, training)
        assert bytes_of(loop) == wanted
        assert sum("could not be kept" in str(e.get("text")) for e in said) == 1
    data = bytearray(kept.read_bytes())
    data[-5] ^= 1
    kept.write_bytes(data)
    assert checkpoint.read(kept) is None
    loop, said = fit(tmp_path, llama, batch, training)
    assert not any("resuming" in str(e.get("text")) for e in said)
    assert bytes_of(loop) == wanted


@pytest.mark.parametrize("rows_before", [200, 150])
def test_appended_rows_cost_what_they_are(rows_before: int, llama: Path, tmp_path: Path) -> None:
    batch, training = token_rows(7, 200), {"order": "append", "checkpoint_steps": None}
    edited = batch[:rows_before] + token_rows(8, 2)
    clean = bytes_of(fit(tmp_path / "clean", llama, edited, training, dropout=0.1)[0])
    assert fit(tmp_path, llama, batch, training, dropout=0.1)[0].steps_skipped == 0
    loop, _ = fit(tmp_path, llama, edited, training, dropout=0.1)
    assert bytes_of(loop) == clean
    if rows_before == 200:
        assert (loop.schedule.steps - loop.steps_skipped) / loop.schedule.steps <= 0.15
    else:
        # An edit in the middle leaves the part before it.
        assert 0.5 * loop.schedule.steps < loop.steps_skipped < 0.9 * loop.schedule.steps


def test_held_out_rows_end_a_training_and_choose_its_best_weights(
    llama: Path, tmp_path: Path
) -> None:
    from olivebuild.ml.training.validation import Validation

    def validation() -> Validation:
        return Validation(token_rows(10), 2, 2, best=True)

    batch, training = token_rows(9, 12), {"steps": 60, "lr": 3e-2}
    loop, said = fit(tmp_path / "quiet", llama, batch, training, held_out=validation())
    found = loop.validation
    assert loop.step < 60
    assert found.losses.index(min(found.losses)) == len(found.losses) - 3
    assert loop.runner.forward.evaluate(found.rows)[0] == pytest.approx(
        min(found.losses) * sum(r.labels for r in found.rows), rel=1e-4
    )
    assert [e["eval_loss"] for e in said if "eval_loss" in e] == found.losses
    # The best weights so far outlive a stop.
    with pytest.raises(Stopped):
        fit(tmp_path, llama, batch, training, stop_at=loop.step - 1, held_out=validation())
    again, _ = fit(tmp_path, llama, batch, training, held_out=validation())
    assert again.validation.losses == found.losses
    assert bytes_of(again) == bytes_of(loop)


def test_a_loss_that_runs_away_ends_the_training(llama: Path, tmp_path: Path) -> None:
    from olivebuild.core.errors import StepError

    batch = token_rows(11, 12)
    with pytest.raises(StepError, match=r"the loss became nan at step [23]"):
        fit(tmp_path / "a", llama, batch, {"steps": 20, "lr": 1e38})
    # A tiny model's norms keep its loss from growing far, so the figures are given; one bad batch
    # is no reason yet.
    loop, _ = fit(tmp_path / "b", llama, batch, {"steps": 2})
    loop._record(3, 30.0, 1.0)
    with pytest.raises(StepError, match="the loss ran away"):
        [loop._record(3, 30.0, 1.0) for _ in range(10)]


def test_training_begins_with_another_adapter(llama: Path, tmp_path: Path) -> None:
    from olivebuild.api.action import ActionInput
    from olivebuild.core.errors import InputError
    from olivebuild.ml.training import train

    first, _ = fit(tmp_path / "a", llama, token_rows(12, 8), {"steps": 6})
    saved = tmp_path / "adapter"
    saved.mkdir()
    train.save_adapter(first.runner.forward.model, saved, "base")
    inputs = {"from": ActionInput(str(saved), str(saved), "adapter", "first")}
    fields: dict[str, Any] = {"inputs": inputs, "from": "first"}
    loop, _ = fit(tmp_path / "b", llama, token_rows(12, 8), {"steps": 6}, **fields)
    assert loop.progress.losses[0] < first.progress.losses[0] - 0.01
    with pytest.raises(InputError, match="the adapter to begin with differs"):
        fit(tmp_path / "c", llama, token_rows(12, 8), {"steps": 6}, **fields, r=8)


# The whole step

TRAINING = "training: {lr: 1e-3, steps: 12, batch: 4, checkpoint_steps: 1}"


@pytest.fixture
def place(tiny_model: Path, tmp_path: Path) -> Place:
    made = Place(tmp_path / "work", tmp_path / "cache")
    shutil.copytree(tiny_model, made.folder / "tiny")
    write_rows(made.folder / "data/tone.jsonl", rows())
    made.recipe.write_text(
        RECIPE.replace("training: {lr: 1e-3, steps: 4, batch: 4}", TRAINING).replace(
            "alpha: 8", "alpha: 8\n    dropout: 0.1"
        )
    )
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
        kill_at_some_step(
            place, chance.uniform(0, 0.15), chance.choice([signal.SIGKILL, signal.SIGINT])
        )
        done = place.build("adapter")
        assert done.code == 0, done.err
        notes = [e["text"] for e in done.events if e["event"] == "note"]
        assert any("resuming from step" in n for n in notes) or "adapter" not in done.ran
        assert place.built("adapter", "adapter_model.safetensors") == wanted
        assert not list((place.cache / "checkpoints").glob("*"))
        # The same once more, from nothing.
        shutil.rmtree(place.cache)


def test_a_killed_training_resumes_and_ends_the_same(place: Place) -> None:
    kills(place, 1)


def test_a_training_is_logged_elsewhere(copied: Place) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    copied.edit("steps: 4", "steps: 3")
    done = copied.run("adapter", "--log-to", "tensorboard:runs")
    assert (done.code, "note:" in done.err) == (0, False), done.err
    [run] = (copied.folder / "runs/adapter").iterdir()
    read = EventAccumulator(str(run)).Reload()
    told = json.loads(copied.run("report", "--json").out)["trainings"][0]["curves"]
    for curve in told:
        found = [
            (event.step, event.tensor_proto.float_val[0]) for event in read.Tensors(curve["name"])
        ]
        assert [step for step, _ in found] == [step for step, _ in curve["points"]] == [1, 2, 3]
        assert [value for _, value in found] == pytest.approx(
            [value for _, value in curve["points"]], rel=1e-3
        )
    assert {curve["name"] for curve in told} == {"loss", "lr", "grad_norm"}


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

    from olivebuild.cache.store import Store
    from olivebuild.ml.models import load
    from olivebuild.ml.nn import qlora
    from olivebuild.ml.nn.forward import Forward, Setup
    from olivebuild.steps.adapter import Quantisation
    from tests.scenarios.steps import job_in

    options = Quantisation()
    trained_on = load.load_model(
        llama, torch.float32, quantised=qlora.configuration(options, torch.float32)
    )
    qlora.note(tmp_path, options)
    model = load.load_model(llama, torch.float32)
    qlora.as_trained_on(job_in(tmp_path / "job", Store(tmp_path / "cache")), model, tmp_path)
    # A look at 4-bit weights without gradients must not spoil the gradients after it.
    qlora.for_training(trained_on)
    batch, setup = (
        token_rows(4),
        Setup(packed=True, share_prefixes=True, tokens_per_micro_batch=10_000),
    )
    quantised = adapted(llama, trained_on)
    Forward(quantised, torch.device("cpu"), setup, print).evaluate(batch)
    assert (
        gradient(quantised, setup, batch)[1] - gradient(adapted(llama, model), setup, batch)[1]
    ).abs().max() < 1e-5
    trained_on, model = quantised.unload(), load.load_model(llama, torch.float32)
    qlora.as_trained_on(job_in(tmp_path / "again", Store(tmp_path / "cache")), model, tmp_path)
    found = dict(model.named_parameters())
    changed = [
        name for name, weight in trained_on.named_parameters() if hasattr(weight, "quant_state")
    ]
    assert len(changed) == 14
    for name, weight in trained_on.named_parameters():
        given = dequantize_4bit(weight.data, weight.quant_state) if name in changed else weight
        assert torch.equal(found[name], given)
