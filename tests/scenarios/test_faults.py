"""Damage, bad input, kills and company: the incremental result equals a clean one, or there is one
clear error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import Done, Place, rows, write_rows

pytestmark = pytest.mark.scenario
MODEL = ("onnx-int4", "model.onnx.data")


def flip(file: Path, keep_times: bool = True) -> None:
    """Change one byte, and put the modification time back."""
    times = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    if keep_times:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted"])
def test_a_damaged_built_file_is_restored(copied: Place, damage: str) -> None:
    copied.build()
    before = copied.everything()
    file = copied.folder.joinpath("build", *MODEL)
    {"flipped": flip, "truncated": lambda f: f.write_bytes(b""), "deleted": Path.unlink}[damage](
        file
    )
    assert copied.verdicts()["onnx-int4"] == "cached"
    done = copied.build()
    assert done.ran == []
    assert done.end["restored"] == ["onnx-int4"]
    assert copied.everything() == before


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted"])
def test_a_damaged_cached_blob_is_never_served(copied: Place, damage: str) -> None:
    before = copied.everything()
    for blob in copied.blobs_of("onnx-int4", "model.onnx.data"):
        {"flipped": flip, "truncated": lambda f: f.write_bytes(b""), "deleted": Path.unlink}[
            damage
        ](blob)
    copied.folder.joinpath("build", *MODEL).unlink()
    assert copied.build().ran == ["onnx-int4"]
    assert copied.everything() == before


def test_verify_finds_a_flipped_blob(copied: Place) -> None:
    assert copied.run("verify").code == 0
    flip(copied.blobs_of("adapter", "adapter_model.safetensors")[0])
    found = copied.run("verify", "--repair")
    assert found.code == 1
    assert found.out.splitlines()[-1].endswith("1 damaged")
    assert copied.run("verify").code == 0


def fails(place: Place, code: int, *texts: str) -> Done:
    """The build fails with `code`, says `texts` on stderr, shows no traceback, and leaves build/
    and the store as they were.
    """
    built, blobs = place.everything(), sorted(place.cache.glob("blobs/*/*"))
    done = place.build()
    assert done.code == code, done.err
    for text in texts:
        assert text in done.err
    assert "Traceback" not in done.err + done.out
    assert "hint:" in done.err
    assert place.everything() == built
    assert sorted(place.cache.glob("blobs/*/*")) == blobs
    return done


def test_a_data_file_missing(copied: Place) -> None:
    (copied.folder / "data/tone.jsonl").unlink()
    fails(copied, 1, "olivebuild.yaml:6:5: error: data/tone.jsonl does not exist")


def test_a_malformed_line(copied: Place) -> None:
    with open(copied.folder / "data/tone.jsonl", "a") as f:
        f.write('{"phrase": "no end, "tone": "joy"}\n')
    fails(copied, 1, "data/tone.jsonl:33:22: error: not valid JSON")


def test_a_column_that_is_not_there(copied: Place) -> None:
    copied.edit("{phrase}", "{sentence}")
    fails(
        copied,
        1,
        "olivebuild.yaml:7:5: error: the data has no column 'sentence'",
        "the columns are phrase, tone",
    )


def test_an_empty_result(copied: Place) -> None:
    write_rows(copied.folder / "data/tone.jsonl", [{"phrase": "", "tone": "joy"}])
    fails(
        copied,
        1,
        "data/tone.jsonl:1: error: 1 of 1 rows dropped: 1 x no value for phrase",
        "none is left",
    )


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        (
            "alpha: 8",
            "alhpa: 8",
            ("olivebuild.yaml:15:5: error: unknown key 'alhpa' in adapter", "did you mean alpha?"),
        ),
        (
            "kind: merged",
            "kind: mergd",
            ("olivebuild.yaml:17:12: error: unknown kind 'mergd'", "did you mean merged?"),
        ),
        (
            "model: merged",
            "model: mergd",
            ("olivebuild.yaml:18:27: error: onnx-int4 needs 'mergd'", "did you mean merged?"),
        ),
        (
            "kind: model, source: tiny",
            "kind: merged, model: merged, adapter: adapter",
            ("error: a cycle: ", "->"),
        ),
        (
            "r: 4",
            "r: four",
            ("olivebuild.yaml:14:5: error: adapter.r: input should be a valid integer",),
        ),
        (
            "steps: 4",
            "steps: 4, epochs: 1",
            ("error: adapter: training takes `epochs` or `steps`, not both", "leave one out"),
        ),
    ],
)
def test_a_wrong_recipe(copied: Place, old: str, new: str, texts: tuple[str, ...]) -> None:
    copied.edit(old, new)
    fails(copied, 2, *texts)


def test_modules_that_the_model_has_not(copied: Place) -> None:
    copied.edit("r: 4", "modules: [wq]")
    fails(
        copied,
        1,
        "olivebuild.yaml:14:5: error: no adapter for these modules",
        "the model's linear layers are down_proj",
    )


def test_pickled_weights_are_not_read(copied: Place) -> None:
    (copied.folder / "tiny/model.safetensors").rename(copied.folder / "tiny/pytorch_model.bin")
    fails(
        copied,
        1,
        "only pickled weights (pytorch_model.bin) in the model folder",
        "safetensors and GGUF only",
    )


def wait_for(process: subprocess.Popen[str], event: str, target: str) -> None:
    assert process.stdout
    for line in process.stdout:
        data = json.loads(line)
        if data["event"] == event and data.get("target") == target:
            return
    raise AssertionError(f"no {event} of {target}")


def slow_training(place: Place) -> None:
    place.edit("steps: 4", "steps: 5000")


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if "olivebuild.executors.worker" in " ".join(p.cmdline())
    ]


def at_work(worker: psutil.Process) -> bool:
    """Whether it runs an action: who waits for one stands in no folder of a build."""
    return Path(worker.cwd()).name == "out"


def all_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=15)[1]


def test_kill_9_in_training_leaves_no_trace_and_no_orphan(copied: Place) -> None:
    before = copied.everything()
    slow_training(copied)
    process = copied.start("build", "--json")
    wait_for(process, "metric", "adapter")
    children = workers(process)
    assert len([c for c in children if at_work(c)]) == 1
    process.kill()
    process.communicate()
    assert all_gone(children)
    assert copied.everything() == before
    assert copied.verdicts()["adapter"] == "stale"
    copied.edit("steps: 5000", "steps: 4")
    assert copied.build().ran == []


def test_a_worker_killed_fails_the_build(copied: Place) -> None:
    slow_training(copied)
    process = copied.start("build", "--json")
    wait_for(process, "metric", "adapter")
    next(c for c in workers(process) if at_work(c)).kill()
    _, err = process.communicate()
    assert process.returncode == 1
    assert "error: adapter failed: its process was killed (signal 9)" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_worker_and_exits_130(copied: Place, number: signal.Signals) -> None:
    before = copied.everything()
    slow_training(copied)
    process = copied.start("build", "--json")
    wait_for(process, "metric", "adapter")
    children = workers(process)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert all_gone(children)
    assert copied.everything() == before
    assert not list((copied.cache / "tmp").iterdir())


def test_two_builds_at_once_run_each_step_once(copied: Place) -> None:
    copied.edit("lr: 1e-3", "lr: 3e-3")
    both = [copied.start("build", "--json", "merged", "onnx-int4") for _ in range(2)]
    finished = [(p.communicate(), p.returncode) for p in both]
    done = [Done(code, out, err) for (out, err), code in finished]
    assert [d.code for d in done] == [0, 0], [d.err for d in done]
    assert sorted(done[0].ran + done[1].ran) == ["adapter", "merged", "onnx-int4"]
    assert copied.build("merged", "onnx-int4").ran == []


def test_data_changed_while_the_dataset_is_made(place: Place) -> None:
    """The step reads slowly; its input changes meanwhile: an error, and nothing cached."""
    (place.folder / "in.txt").write_text("old")
    (place.folder / "slow.py").write_text(
        "import sys, time\ntext = open('in.txt').read()\ntime.sleep(2)\nopen(sys.argv[1], "
        "'w').write(text)\n"
    )
    place.recipe.write_text(
        "targets:\n  copy: {kind: command, run: 'python slow.py {outputs.x}', files: [in.txt], "
        "outputs: {x: x.txt}}\n"
    )
    process = place.start("build", "--json")
    wait_for(process, "started", "copy")
    time.sleep(1)
    (place.folder / "in.txt").write_text("new")
    _, err = process.communicate()
    assert process.returncode == 1
    assert "in.txt changed while copy was being built" in err
    assert place.build().ran == ["copy"]
    assert place.built("copy", "x.txt") == b"new"


def test_a_script_changed_and_a_declared_output_missing(place: Place) -> None:
    script = place.folder / "make.py"
    script.write_text("import sys; open(sys.argv[1], 'w').write('1')")
    place.recipe.write_text(
        "targets:\n  made: {kind: command, run: 'python make.py {outputs.x}', outputs: {x: "
        "x.txt}}\n"
    )
    assert place.build().ran == ["made"]
    assert place.build().ran == []
    script.write_text("import sys; open(sys.argv[1], 'w').write('2')")
    assert place.build().ran == ["made"]
    script.write_text("pass")
    with contextlib.suppress(AssertionError):
        place.build()
    done = place.build()
    assert done.code == 1
    assert "made ended well but did not make x" in done.err
    assert place.built("made", "x.txt") == b"2"


def test_a_step_that_is_not_deterministic_is_said(place: Place) -> None:
    place.recipe.write_text(
        "targets:\n"
        "  now: {kind: command, run: 'date +%N > {outputs.x}', shell: true, outputs: {x: x.txt}}\n"
    )
    assert place.build().ran == ["now"]
    for blob in place.cache.glob("blobs/*/*"):
        if blob.suffix != ".trace":
            blob.unlink()
    (place.folder / "build/now/x.txt").unlink()
    done = place.build()
    assert done.ran == ["now"]
    assert "not deterministic" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_a_command_runs_ends_with_the_build(
    place: Place, number: signal.Signals
) -> None:
    place.recipe.write_text("targets:\n  slow: {kind: command, run: sleep 47, outputs: [x.txt]}\n")
    process = place.start("build", "--json")
    wait_for(process, "started", "slow")
    children: list[psutil.Process] = []
    while not any(p.name() == "sleep" for p in children):
        children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.communicate()
    assert all_gone(children)
    place.edit("run: sleep 47", "run: 'touch {outputs.x}'")
    assert place.build().ran == ["slow"]
    assert not list((place.cache / "tmp").iterdir())


def test_a_damaged_data_set_is_made_again_and_nothing_below(place: Place) -> None:
    write_rows(place.folder / "data/tone.jsonl", rows())
    place.recipe.write_text(
        "targets:\n  tone: {kind: dataset, source: data/tone.jsonl, prompt: '{phrase}', "
        "completion: '{tone}'}\n"
        "  copy: {kind: command, run: 'cp {inputs.x} {outputs.y}', inputs: {x: tone.train}, "
        "outputs: {y: y.parquet}}\n"
    )
    assert place.build("copy").ran == ["tone", "copy"]
    for blob in place.blobs_of("tone", "train.parquet"):
        flip(blob)
    (place.folder / "build/tone/train.parquet").unlink()
    assert place.build("copy").ran == ["tone"]
    assert place.build("copy").ran == []
