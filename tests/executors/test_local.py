"""Actions as processes: which share one, what each gets, and how they end.

Real workers, run by real commands.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import olivebuild
from olivebuild.api.action import Action, ActionInput, Message, Outcome
from olivebuild.core import exit_reasons, hashing
from olivebuild.executors import local
from olivebuild.executors.local import LocalExecutor
from olivebuild.steps.command import STEP as COMMAND
from tests.conftest import Place

TELL = (
    "import json, os, sys; json.dump([os.getppid(), os.getcwd()], open(sys.argv[1], 'w')); "
    "print('said', file=sys.stderr)"
)


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    made = LocalExecutor(2, [])
    yield made
    made.cancel()


def action(
    folder: Path, name: str, code: str = TELL, *, reuses_worker: bool = True, **more: Any
) -> Action:
    out = folder / name / "out"
    out.mkdir(parents=True)
    fields: dict[str, object] = {
        "run": f'python -c "{code}" {{outputs.told}}',
        "outputs": {"told": "told.json"},
    }
    return Action(
        name,
        name,
        "command",
        "",
        fields,
        {},
        {},
        str(folder),
        str(out),
        reuses_worker=reuses_worker,
        runner=COMMAND.runner,
        **more,
    )


def end(executor: LocalExecutor) -> Outcome:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if isinstance(said := executor.wait(0.1), Outcome):
            return said
        assert said is None or isinstance(said, Message)
    raise AssertionError("no action ended")


def worker_of(folder: Path, name: str) -> int:
    return int(json.loads((folder / name / "out/told.json").read_text())[0])


def run(executor: LocalExecutor, wanted: Action, folder: Path) -> Outcome:
    executor.start(wanted, folder / f"{wanted.node}.log")
    outcome = end(executor)
    assert outcome.node == wanted.node
    return outcome


def test_actions_that_share_a_process_run_in_one(tmp_path: Path, executor: LocalExecutor) -> None:
    for name in ("first", "second", "third"):
        outcome = run(executor, action(tmp_path, name), tmp_path)
        assert outcome.error is None
        assert outcome.result is not None
        assert (tmp_path / f"{name}.log").read_text().count("said") == 1
    assert len({worker_of(tmp_path, name) for name in ("first", "second", "third")}) == 1


def test_an_action_that_does_not_share_has_a_process_of_its_own(
    tmp_path: Path, executor: LocalExecutor
) -> None:
    for name, reuses_worker in (
        ("first", True),
        ("second", False),
        ("third", True),
        ("fourth", False),
    ):
        assert (
            run(executor, action(tmp_path, name, reuses_worker=reuses_worker), tmp_path).error
            is None
        )
    pids = [worker_of(tmp_path, name) for name in ("first", "second", "third", "fourth")]
    assert pids[0] == pids[2]
    assert len(set(pids)) == 3


def test_a_file_of_the_folder_we_are_started_in_is_no_module(
    tmp_path: Path, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("msgspec", "queue", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert run(executor, action(tmp_path, "first"), tmp_path).error is None


def test_two_at_once_do_not_share(tmp_path: Path, executor: LocalExecutor) -> None:
    for name in ("first", "second"):
        executor.start(action(tmp_path, name), tmp_path / f"{name}.log")
    assert {end(executor).node, end(executor).node} == {"first", "second"}
    assert worker_of(tmp_path, "first") != worker_of(tmp_path, "second")


def test_what_is_timed_has_the_machine_to_itself(tmp_path: Path, executor: LocalExecutor) -> None:
    # A process that waits may still import.
    executor.prepare(("olivebuild.api.step",))
    waiting = executor._idle[0].process
    timed = action(tmp_path, "timed", reuses_worker=False, exclusive=True)
    other = action(tmp_path, "other")
    assert executor.can_start(timed)
    assert executor.free_slots(timed) == 1
    executor.start(timed, tmp_path / "timed.log")
    assert waiting.poll() is not None
    assert not executor.can_start(other)
    assert end(executor).error is None
    executor.start(other, tmp_path / "other.log")
    assert not executor.can_start(timed)
    assert end(executor).error is None


def test_an_action_sees_the_gpus_that_it_takes_and_no_two_share_one(tmp_path: Path) -> None:
    tell = (
        "import json, os, sys; json.dump(os.environ['CUDA_VISIBLE_DEVICES'].split(','), "
        "open(sys.argv[1], 'w'))"
    )
    wanted = {
        name: action(tmp_path, name, tell, reuses_worker=False, gpus=gpus)
        for name, gpus in (("one", 1), ("two", 2), ("many", 9), ("none", 0))
    }
    executor = LocalExecutor(4, ["0", "1", "2"])
    try:
        for name, left in (
            ("one", {"two": True, "many": False}),
            ("two", {"one": False, "none": True}),
        ):
            executor.start(wanted[name], tmp_path / f"{name}.log")
            assert {other: executor.can_start(wanted[other]) for other in left} == left
            # Of those that take GPUs one at a time.
            slots = {other: executor.free_slots(wanted[other]) for other in ("one", "none")}
            assert slots == ({"one": 1, "none": 3} if name == "one" else {"one": 0, "none": 2})
        assert {end(executor).node, end(executor).node} == {"one", "two"}
        for name in ("many", "none"):
            assert run(executor, wanted[name], tmp_path).error is None
    finally:
        executor.cancel()
    seen = {name: json.loads((tmp_path / name / "out/told.json").read_text()) for name in wanted}
    assert (seen["one"], seen["two"], sorted(seen["many"]), seen["none"]) == (
        ["0"],
        ["1", "2"],
        ["0", "1", "2"],
        [""],
    )


def test_after_a_failure_the_next_action_gets_another_process(
    tmp_path: Path, executor: LocalExecutor
) -> None:
    assert run(executor, action(tmp_path, "first"), tmp_path).error is None
    failed = run(executor, action(tmp_path, "second", "raise SystemExit(3)"), tmp_path)
    assert failed.error is not None
    assert "ended with 3" in failed.error.fact
    assert run(executor, action(tmp_path, "third"), tmp_path).error is None
    assert worker_of(tmp_path, "third") != worker_of(tmp_path, "first")


def test_what_is_registered_for_the_end_of_a_process_is_done(
    tmp_path: Path, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a process ends without being taken apart."""
    done = tmp_path / "done"
    (tmp_path / "ending.py").write_text(
        "import atexit, pathlib, threading, time\n"
        f"atexit.register(pathlib.Path({str(done)!r}).write_text, 'done')\n"
        "threading.Thread(target=time.sleep, args=(0.2,)).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(hashing, "THREADS", 2)
    executor.prepare(("ending",))
    failed = run(executor, action(tmp_path, "first", "raise SystemExit(3)"), tmp_path)
    assert failed.error is not None
    assert "ended with 3" in failed.error.fact
    assert done.read_text() == "done"


def test_a_waiting_process_that_was_killed_is_replaced(
    tmp_path: Path, executor: LocalExecutor
) -> None:
    assert run(executor, action(tmp_path, "first"), tmp_path).error is None
    process = psutil.Process(worker_of(tmp_path, "first"))
    process.kill()
    executor._idle[0].reader.join(60)
    assert run(executor, action(tmp_path, "second"), tmp_path).error is None
    assert worker_of(tmp_path, "second") != process.pid


def test_a_process_that_ends_while_it_is_given_an_action_does_not_take_it_along(
    tmp_path: Path, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader has seen the end, and that there was no action, and is not gone yet."""
    leaving, may_leave = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, lines: Any) -> None:
            self.lines = lines

        def __enter__(self) -> Any:
            return self.lines

        def __exit__(self, *_: object) -> None:
            leaving.set()
            may_leave.wait(30)
            self.lines.close()

    def spawn(*arguments: Any, **options: Any) -> Any:
        process: Any = spawned(*arguments, **options)
        process.stdout = Slow(process.stdout)
        monkeypatch.setattr(local, "_spawn", spawned)
        return process

    spawned = local._spawn
    monkeypatch.setattr(local, "_spawn", spawn)
    monkeypatch.setattr(hashing, "THREADS", 2)
    executor.prepare(())
    executor._idle[0].process.kill()
    assert leaving.wait(30)
    threading.Timer(0.5, may_leave.set).start()
    assert run(executor, action(tmp_path, "first"), tmp_path).error is None


@pytest.mark.parametrize("reuses_worker", [True, False])
def test_what_a_killed_process_had_started_ends_with_it(
    tmp_path: Path, executor: LocalExecutor, reuses_worker: bool
) -> None:
    executor.start(
        action(
            tmp_path, "first", f"{TELL}; import time; time.sleep(600)", reuses_worker=reuses_worker
        ),
        tmp_path / "first.log",
    )
    deadline, told = time.monotonic() + 60, tmp_path / "first/out/told.json"
    while not (told.exists() and told.read_text().endswith("]")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker = psutil.Process(worker_of(tmp_path, "first"))
    (program,) = worker.children()
    worker.kill()
    assert end(executor).error is not None
    psutil.wait_procs([program], timeout=60)
    assert not program.is_running()


def test_the_first_action_gets_the_process_that_was_started_ahead(
    tmp_path: Path, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "THREADS", 2)
    executor.prepare(())
    (ahead,) = executor._idle
    executor.prepare(())
    assert executor._idle == [ahead]
    assert run(executor, action(tmp_path, "own", reuses_worker=False), tmp_path).error is None
    assert run(executor, action(tmp_path, "first"), tmp_path).error is None
    assert worker_of(tmp_path, "own") != ahead.process.pid
    assert worker_of(tmp_path, "first") == ahead.process.pid


@pytest.mark.scenario
@pytest.mark.parametrize(
    ("consumers", "goes_on"),
    [
        ([], False),
        ([["dataset", {}]], False),
        ([["onnx", {"model": "m"}]], True),
        ([["onnx", {"model": "m", "provider": "cuda"}]], False),
        ([["benchmark-check", {"what": "merge"}]], True),
        ([["benchmark-accuracy", {"max_new_tokens": 4}]], True),
        ([["benchmark-accuracy", {"max_new_tokens": 4, "score": ["a.py:f"]}]], False),
    ],
)
def test_a_process_with_heavy_libraries_goes_on_only_to_a_step_that_needs_them(
    consumers: list[list[object]],
    goes_on: bool,
    tmp_path: Path,
    executor: LocalExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hashing, "THREADS", 2)
    executor.prepare(("onnx",))
    assert run(executor, action(tmp_path, "first", consumers=consumers), tmp_path).error is None
    # One of another kind does not take the process, which would end with it.
    assert run(executor, action(tmp_path, "other"), tmp_path).error is None
    second = action(tmp_path, "second")._replace(kind=str(consumers[0][0]) if consumers else "")
    assert run(executor, second, tmp_path).error is None
    first, *others = (worker_of(tmp_path, name) for name in ("first", "other", "second"))
    assert first != others[0]
    assert (first == others[1]) is goes_on


def test_a_model_that_brings_code_along_has_a_process_of_its_own(
    tmp_path: Path, executor: LocalExecutor
) -> None:
    model = ActionInput("m", "m", "model", "base", trust_remote_code=True)
    workers = []
    for name in ("first", "trusted", "third"):
        inputs = {"model": model} if name == "trusted" else {}
        one = action(tmp_path, name)._replace(inputs=inputs)
        assert run(executor, one, tmp_path).error is None
        workers.append(worker_of(tmp_path, name))
    assert workers[0] == workers[2] != workers[1]


def test_a_process_with_a_gpu_goes_on_to_actions_that_take_as_many(tmp_path: Path) -> None:
    executor = LocalExecutor(2, ["0", "1"])
    workers = []
    for name, gpus in (("first", 1), ("second", 1), ("plain", 0), ("third", 1)):
        assert run(executor, action(tmp_path, name, gpus=gpus), tmp_path).error is None
        workers.append(worker_of(tmp_path, name))
    assert workers[0] == workers[1] == workers[3] != workers[2]
    # Whoever needs all GPUs has them: the process that waits with one ends.
    both = action(tmp_path, "both", gpus=2)
    assert executor.can_start(both)
    assert run(executor, both, tmp_path).error is None
    assert worker_of(tmp_path, "both") not in workers
    executor.cancel()
    assert executor.can_start(both)
    assert sorted(executor._tokens) == ["0", "1"]


def test_the_gpu_of_a_process_that_ended_while_it_waited_is_given_on(tmp_path: Path) -> None:
    executor = LocalExecutor(1, ["0"])
    assert run(executor, action(tmp_path, "first", gpus=1), tmp_path).error is None
    psutil.Process(worker_of(tmp_path, "first")).kill()
    executor._idle[0].reader.join()
    assert run(executor, action(tmp_path, "second", gpus=1), tmp_path).error is None
    assert worker_of(tmp_path, "second") != worker_of(tmp_path, "first")
    executor.cancel()
    assert executor._tokens == ["0"]


@pytest.mark.parametrize("tokens", [[], ["0"]])
def test_a_process_for_what_will_come_waits_for_its_kind_and_for_the_gpu(
    tmp_path: Path, tokens: list[str]
) -> None:
    executor, gpus = LocalExecutor(2, tokens), len(tokens)
    training = action(tmp_path, "training", gpus=gpus, reuses_worker=False)
    executor.start(training, tmp_path / "training.log")
    executor.expect(["judging"], ["json"], gpus=gpus)
    ahead = executor._idle[0].process.pid
    # It has no GPU yet, so there is none that another could take from it.
    assert executor.can_start(training) is not bool(tokens)
    assert end(executor).error is None
    assert run(executor, action(tmp_path, "other", gpus=gpus), tmp_path).error is None
    judging = action(tmp_path, "judging", gpus=gpus)._replace(kind="judging")
    assert run(executor, judging, tmp_path).error is None
    assert worker_of(tmp_path, "judging") == ahead
    assert worker_of(tmp_path, "other") != ahead
    executor.cancel()
    assert executor._tokens == tokens


def test_no_process_waits_for_a_gpu_that_nobody_will_give_back(tmp_path: Path) -> None:
    executor = LocalExecutor(1, ["0"])
    executor.expect(["judging"], ["json"], gpus=1)
    assert not executor._idle


def test_a_process_that_was_started_ahead_in_vain_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "THREADS", 2)
    executor = LocalExecutor(1, [])
    executor.prepare(("olivebuild.api.step",))
    process = psutil.Process(executor._idle[0].process.pid)
    executor.cancel()
    assert not process.is_running()


def test_nothing_is_left_when_the_executor_is_let_go(tmp_path: Path) -> None:
    executor = LocalExecutor(2, [])
    assert run(executor, action(tmp_path, "first"), tmp_path).error is None
    waiting = psutil.Process(worker_of(tmp_path, "first"))
    executor.start(
        action(tmp_path, "second", "import time; time.sleep(600)", reuses_worker=False),
        tmp_path / "second.log",
    )
    executor.cancel()
    assert not waiting.is_running()
    assert not any(map(is_worker, psutil.Process().children(recursive=True)))


def is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "olivebuild.executors.worker" in " ".join(process.cmdline())
    # It has ended, and perhaps nobody has asked yet how.
    return False


def test_a_lock_is_held_by_a_process_of_its_own_and_not_by_one_that_goes_on(
    tmp_path: Path, executor: LocalExecutor
) -> None:
    from olivebuild.core.fs.locks import try_lock

    for name, reuses_worker, freed in (("own", False, False), ("shared", True, True)):
        lock = try_lock(tmp_path / f"{name}.lock")
        assert lock is not None
        executor.start(
            action(tmp_path, name, "import time; time.sleep(1)", reuses_worker=reuses_worker),
            tmp_path / f"{name}.log",
            [lock.fileno()],
        )
        lock.close()
        again = try_lock(tmp_path / f"{name}.lock")
        assert (again is not None) == freed
        if again:
            again.close()
        end(executor)


UPGRADE = """\
import os, pathlib, sys
file = pathlib.Path(sys.argv[2])
new = file.with_suffix(".new")
new.write_text(file.read_text() + "# another version\\n")
os.replace(new, file)
pathlib.Path(sys.argv[1]).write_text("installed")
"""


@pytest.mark.parametrize("shared", ["", ", gpu: true"])
def test_a_build_under_which_olivebuild_is_upgraded_ends_and_says_so(
    place: Place, tmp_path: Path, shared: str
) -> None:
    installed = tmp_path / "installed"
    shutil.copytree(
        Path(olivebuild.__file__).parent,
        installed / "olivebuild",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    place.environment["PYTHONPATH"] = str(installed)
    (place.folder / "upgrade.py").write_text(UPGRADE)
    one = (
        f'{{kind: command, run: "python upgrade.py {{outputs.o}} '
        f'{installed / "olivebuild/steps/command.py"}", outputs: {{o: o.txt}}{shared}}}'
    )
    two = (
        f'{{kind: command, run: "cp {{inputs.one}} {{outputs.o}}", inputs: {{one: one.o}}, '
        f"outputs: {{o: o.txt}}{shared}}}"
    )
    place.recipe.write_text(f"targets:\n  one: {one}\n  two: {two}\n")
    done = place.build("two")
    assert (done.code, done.events[-1]["ran"], done.events[-1]["failed"]) == (
        1,
        ["one"],
        ["two"],
    ), done.err
    assert "olivebuild itself was changed while it was building" in done.err
    assert place.build("two").ran == ["two"]


def test_a_worker_that_does_not_understand_what_it_is_asked_ends() -> None:
    command = [sys.executable, "-P", "-m", "olivebuild.executors.worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as worker:
        assert worker.stdin
        worker.stdin.write(b"no JSON\n")
        worker.stdin.flush()
        assert worker.wait(60) == 1


GROW = (
    "import os, signal, time; held = bytes(range(256)) * (1 << 20); os.kill({whom}, "
    "signal.SIGKILL); time.sleep(60)"
)


@pytest.mark.skipif(
    sys.platform != "linux", reason="what a process had taken that was killed is told there"
)
@pytest.mark.parametrize(
    ("whom", "shell", "taken"),
    [
        ("os.getpid()", False, r"2\d\d MB"),
        ("os.getpid()", True, r"2\d\d MB"),
        # A process counts what its parent had when it was started.
        ("os.getppid()", False, r"[\d.]+ [MG]B"),
    ],
)
def test_a_process_that_is_killed_is_said_to_be_and_how_much_it_had_taken(
    tmp_path: Path, executor: LocalExecutor, whom: str, shell: bool, taken: str
) -> None:
    """As a system does that has no memory left: a program, one in a shell, or the worker itself
    gets SIGKILL.
    """
    given = action(tmp_path, "first", GROW.format(whom=whom))
    if shell:
        given.fields.update(run=f"{given.fields['run']}; exit $?", shell=True)
    error = run(executor, given, tmp_path).error
    assert error is not None
    found = re.search(
        r"was killed \(signal 9\), perhaps for want of memory; it had taken up to (.*)", error.fact
    )
    assert found
    assert re.fullmatch(taken, found[1])
    assert "if it was for memory: close other programs" in error.hint
    assert run(executor, action(tmp_path, "second"), tmp_path).error is None


def test_the_systems_own_count_makes_it_certain() -> None:
    count = exit_reasons.kills()
    assert exit_reasons.ending(-9, 0, count)[0].endswith("perhaps for want of memory")
    if count is not None:
        assert "the system had no memory left" in exit_reasons.ending(-9, 0, count - 1)[0]
    assert exit_reasons.ending(-11, 1 << 30) == ("was stopped by SIGSEGV", "")
    assert exit_reasons.ending(3) == ("ended with 3", "")


@pytest.mark.skipif(
    sys.platform != "linux", reason="a process can be bound to so much memory there"
)
def test_a_step_that_gets_no_more_memory_says_so(place: Place) -> None:
    """Under `ulimit -v`, where a library is refused what it asks for."""
    (place.folder / "rows.json").write_text("[" + "[]," * (20 << 20) + "[]]")
    place.recipe.write_text(
        'targets:\n  rows: {kind: dataset, source: rows.json, prompt: "{text}", completion: '
        '"{label}"}\n'
    )
    start = f"[{sys.executable!r}, '-m', 'olivebuild']"
    limit = (
        f"import os, resource as r; r.setrlimit(r.RLIMIT_AS, ({1200 << 20},) * 2); "
        f"os.execv({sys.executable!r}, {start})"
    )
    environment = os.environ | {"OLIVEBUILD_CACHE": str(place.cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", limit],
        cwd=place.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        "error: rows failed: there was not enough memory; its process had taken up to"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (place.folder / "build").exists()
