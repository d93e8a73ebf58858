"""What a build prints: plain lines word for word, the rows of a terminal, and a real terminal that
is resized and interrupted.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from olivebuild.api.event import Event
from olivebuild.ui.live import Display
from olivebuild.ui.plain import whole
from tests.conftest import Place
from tests.support.terminal import Terminal


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Played:
    """A display without a terminal that is told events, at times of our choice."""

    def __init__(self, width: int = 200) -> None:
        self.clock, self.out = Clock(), io.StringIO()
        self.display = Display(
            Console(file=self.out, width=width, highlight=False, soft_wrap=True), self.clock
        )

    def say(self, name: str, node: str = "", after: float = 0.0, **data: object) -> None:
        self.clock.now += after
        self.display(
            Event(name, {"target": node.partition(":")[0], "node": node, **data} if node else data)
        )

    def rows(self, width: int) -> list[str]:
        console = Console(file=io.StringIO(), width=width, color_system=None)
        self.display.console = console
        with console.capture() as captured:
            console.print(self.display.draw())
        return [line.rstrip() for line in captured.get().splitlines()]


NEW = [{"cause": "new", "what": "never built here", "old": None, "new": None}]
LR = [{"cause": "parameter", "what": "training.lr", "old": "0.0001", "new": "0.0002"}]


def training(played: Played, cost: float | None = 90.0) -> None:
    """Two steps done, the adapter in the middle of its training, the rest to come."""
    costs = {"tone": None, "adapter": cost, "merged": 10.0, "onnx-int4": 14.0}
    played.say("plan", run=list(costs), restore=[], seconds=costs)
    played.say("started", "tone", reasons=NEW, seconds=None)
    played.say("progress", "tone", what="reading", done=440, total=0)
    played.say("note", "tone", text="440 rows read, 354 to train")
    played.say("finished", "tone", after=0.9, seconds=0.9)
    played.say("started", "adapter", reasons=LR, seconds=cost)
    for step in range(1, 19):
        played.say("metric", "adapter", after=2.0, step=step, loss=2.0 / step)
        played.say("progress", "adapter", what="training", done=step, total=36)


def test_plain_lines() -> None:
    played = Played()
    with played.display:
        training(played)
        played.say("stopping", "adapter")
    assert (
        played.out.getvalue()
        == """\
run      tone                   never built here
note     tone                   440 rows read, 354 to train
done     tone                   0.9 s
run      adapter                parameter training.lr: 0.0001 -> 0.0002, took 1 min 30 s last time
         adapter                training 8/36, loss 0.250, 2.0 s each, 56 s left
         adapter                training 15/36, loss 0.133, 2.0 s each, 42 s left
stop     adapter                training 18/36, loss 0.111, after 36.0 s
"""
    )


def test_a_step_on_another_machine_says_on_which() -> None:
    played = Played()
    played.say("started", "adapter", reasons=NEW, seconds=9.0, executor="gpu-box")
    assert played.out.getvalue() == (
        "run      adapter                on gpu-box, never built here, took 9.0 s last time\n"
    )


def test_a_long_phase_says_something_each_minute() -> None:
    played = Played()
    played.say("started", "onnx", reasons=[], seconds=None)
    for done in range(4):
        played.say("progress", "onnx", after=40.0, what="converting", done=done, total=900)
    assert (
        played.out.getvalue()
        == """\
run      onnx
         onnx                   converting 1/900, 40.0 s each, 9 h 59 min left
         onnx                   converting 3/900, 40.0 s each, 9 h 58 min left
"""
    )


def test_rows_of_a_terminal() -> None:
    played = Played()
    training(played)
    assert played.rows(80) == [
        "adapter  ━━━━━━━━╌╌╌╌╌╌╌╌  training 18/36, loss 0.111, 2.0 s each, 36 s left",
        "1 of 4 steps done, about 1 min 00 s left",
    ]
    assert played.rows(41) == [
        "adapter  training 18/36, loss 0.111, 2.…",
        "1 of 4 steps done, about 1 min 00 s left",
    ]


def test_time_left_without_a_pace_comes_from_the_last_run() -> None:
    played = Played()
    played.say("started", "bench:latency", reasons=[], seconds=33.0)
    played.say("started", "merged", reasons=[], seconds=None)
    played.say("progress", "bench:latency", after=3.0, what="measuring", done=0, total=3)
    assert played.rows(80) == [
        "bench:latency  ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  measuring 0/3, 30 s left",
        "merged                           running, 3 s so far",
    ]
    # Past its time it claims nothing.
    played.say("progress", "bench:latency", after=31.0, what="measuring", done=0, total=3)
    assert played.rows(80)[0].split("  ")[-1] == "measuring 0/3, 34 s so far"


def test_an_estimate_follows_what_this_run_shows_and_not_a_long_last_time() -> None:
    played = Played()
    costs = {"adapter": 600.0, "bench:accuracy.merged": 540.0, "bench": 100.0}
    played.say("plan", run=["adapter", "bench"], restore=[], seconds=costs)
    played.say("started", "adapter", reasons=[], seconds=600.0)
    played.say("finished", "adapter", after=60.0, seconds=60.0)
    # What is finished took a tenth of its last time.
    played.say("started", "bench:accuracy.merged", reasons=[], seconds=540.0)
    assert played.rows(80) == [
        "bench:accuracy.merged                    running, 54 s left",
        "1 of 3 steps done, about 1 min 04 s left",
    ]
    # The pace of the work itself is better yet.
    for done in range(1, 11):
        played.say(
            "progress", "bench:accuracy.merged", after=0.3, what="judging", done=done, total=80
        )
    (row, _) = played.rows(120)
    assert "judging 10/80" in row
    assert row.endswith("21 s left")


def test_a_short_phase_does_not_speak_for_its_step() -> None:
    played = Played()
    played.say("started", "onnx", reasons=[], seconds=300.0)
    for done in range(1, 5):
        played.say("progress", "onnx", after=2.0, what="fetching", done=done, total=8)
    assert played.rows(120)[0].endswith("4 min 52 s left")


def test_a_step_that_was_expected_to_be_carried_over_counts_once_it_runs() -> None:
    played = Played()
    played.say("plan", run=["bench"], restore=[], seconds={"bench:structure": 1.0, "bench": 1.0})
    played.say("started", "bench:structure", reasons=[], seconds=1.0)
    played.say("finished", "bench:structure", after=1.0, seconds=1.0)
    played.say("started", "bench:latency", reasons=[], seconds=77.0)
    assert played.rows(80)[-1] == "1 of 3 steps done, about 1 min 18 s left"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.9, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (5000.0, "1 h 23 min"),
    ],
)
def test_an_estimate_has_no_decimals(value: float, text: str) -> None:
    assert whole(value) == text


def test_a_long_file_has_a_row_while_it_is_hashed() -> None:
    played = Played()
    played.say("hashing", file="model.safetensors", done=0, total=8_000_000_000)
    played.say(
        "hashing", file="model.safetensors", after=4.0, done=6_000_000_000, total=8_000_000_000
    )
    assert played.rows(100) == [
        "model.safetensors  ━━━━━━━━━━━━╌╌╌╌  hashing 6.00 GB of 8.00 GB, 1.50 GB a second, 1 s "
        "left"
    ]
    played.say("hashing", file="model.safetensors", done=8_000_000_000, total=8_000_000_000)
    assert played.rows(100) == []
    assert played.out.getvalue() == ""


def test_a_transfer_has_a_row_and_its_result_a_line() -> None:
    played = Played()
    played.say("transfer", what="fetching", done=0, total=8_000_000_000)
    played.say("transfer", what="uploading", done=0, total=10)
    played.say("transfer", what="fetching", after=4.0, done=6_000_000_000, total=8_000_000_000)
    assert played.rows(100) == [
        "from remote  ━━━━━━━━━━━━╌╌╌╌  fetching 6.00 GB of 8.00 GB, 1.50 GB a second, 1 s left",
        "to remote    ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  uploading 0 B of 10 B, 4 s so far",
    ]
    played.say("transfer", what="fetching", done=8_000_000_000, total=8_000_000_000)
    played.say("transfer", what="uploading", done=10, total=10)
    assert played.rows(100) == []
    played = Played()
    played.say("fetched", "adapter", bytes=8_000_000_000)
    assert (
        played.out.getvalue() == "fetched  adapter                8.00 GB from the remote cache\n"
    )


def test_a_long_transfer_says_how_far_it_is_where_nothing_is_drawn() -> None:
    played = Played()
    for done in range(0, 101, 10):
        played.say("transfer", after=4.0, what="uploading", done=done * 10**6, total=100 * 10**6)
    lines = [" ".join(line.split()) for line in played.out.getvalue().splitlines()]
    assert lines[0] == "to remote uploading 30 MB of 100 MB, 2 MB a second, 28 s left"
    assert len(lines) == 4


def test_a_file_can_not_steer_the_terminal() -> None:
    played = Played()
    played.say("note", "a", text="\x1b[2J[red]gone")
    assert played.out.getvalue() == "note     a                      \\u001b[2J[red]gone\n"


CHAIN = """\
targets:
  a: {kind: command, run: "python slow.py {outputs.x}", outputs: {x: x.txt}}
  b: {kind: command, run: "python slow.py {outputs.x}", inputs: {y: a.x}, outputs: {x: x.txt}}
"""


@pytest.fixture
def slow(place: Place) -> Place:
    """Two commands, one after the other, that take a second each."""
    place.recipe.write_text(CHAIN)
    (place.folder / "slow.py").write_text(
        "import sys, time\ntime.sleep(1)\nopen(sys.argv[1], 'w').write('x')\n"
    )
    return place


def timeless(text: str) -> str:
    return re.sub(r"\d+\.\d s", "N s", text)


def test_plain_lines_of_a_real_build(slow: Place) -> None:
    done = slow.run()
    assert (done.err, timeless(done.out)) == (
        "",
        """\
run      a                      never built here
done     a                      N s
run      b                      never built here
done     b                      N s
2 built in N s
""",
    )
    assert slow.run().out == "nothing to do: b is fresh\n"
    (slow.folder / "slow.py").write_text("raise SystemExit('no\\x1b[2Jt today')\n")
    done = slow.run()
    assert (
        re.sub(r"[0-9a-f]{8}", "D", timeless(done.out))
        == """\
run      a                      file slow.py: D -> D, took N s last time
failed   a                      running, after N s
"""
    )


@pytest.fixture
def terminal(slow: Place) -> Iterator[Terminal]:
    made = Terminal(slow, 90, 8)
    yield made
    os.close(made.fd)


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are posix")
def test_a_terminal_that_is_resized_loses_nothing(terminal: Terminal) -> None:
    terminal.read("running, 0 s so far")
    assert any("0 of 2 steps done" in line for line in terminal.lines())
    screen: Any = terminal.screen
    assert screen.cursor.hidden
    terminal.resize(50, 8)
    terminal.read("1 of 2 steps done")
    terminal.resize(120, 8)
    terminal.read()
    assert [timeless(line) for line in terminal.lines()] == [
        "run      a                      never built here",
        "done     a                      N s",
        "run      b                      never built here",
        "done     b                      N s",
        "2 built in N s",
    ]
    assert not screen.cursor.hidden
    assert terminal.code() == 0


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are posix")
def test_ctrl_c_in_a_terminal_tells_what_was_stopped(terminal: Terminal) -> None:
    terminal.read("running")
    terminal.type("\x03")
    terminal.read()
    assert [timeless(line) for line in terminal.lines()] == [
        "run      a                      never built here",
        "stop     a                      running, after N s",
        "interrupted: what was finished is kept",
    ]
    assert not terminal.screen.cursor.hidden
    assert terminal.code() == 130


def _gate(state: str | None, rows: int) -> dict[str, Any]:
    standing = {"rows": rows, "of": 402, "value": 0.95, "interval": [0.84, 0.98]}
    return {
        "gate": "accuracy >= 0.8",
        "state": state,
        "strict": False,
        "is_drop": False,
        **standing,
    }


def _judging(played: Played) -> None:
    node, costs = "bench:accuracy.merged", {"bench:accuracy.merged": None, "bench": None}
    played.say("plan", run=["bench"], restore=[], seconds=costs)
    played.say("started", node, reasons=NEW, seconds=None)
    played.say("progress", node, what="judging", done=40, total=402)
    told: dict[str, Any] = {"model": "merged", "data": "tone", "figures": {"accuracy": 0.95}}
    played.say("figures", node, **told, rows=40, of=402, gates=[_gate(None, 40)])


def test_what_rows_say_stands_beside_the_step_until_it_is_decided() -> None:
    played = Played()
    with played.display:
        _judging(played)
        row, gate, _ = played.rows(120)
        assert "judging 40/402, accuracy 95.0 % of 40 rows of tone" in row
        assert gate == (
            "gate  bench: accuracy >= 0.8 is open: 95.0 % in 40 rows, 84.0 to 98.0 % in all 402"
        )
        played.say("decided", "bench", **_gate("met", 64))
        assert len(played.rows(120)) == 2


def test_a_decision_is_a_line_of_its_own() -> None:
    played = Played()
    with played.display:
        _judging(played)
        played.say("decided", "bench", **_gate("met", 64))
    assert (
        "decided  bench                  accuracy >= 0.8 is met after 64 of 402 rows "
        "(95.0 % in 64 rows, 84.0 to 98.0 % in all 402)\n"
    ) in played.out.getvalue()
