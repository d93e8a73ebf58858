"""The history: what a build leaves in it, what survives damage and kills, two writers at once, and
what its names find.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.key import Reason
from olivebuild.core.errors import RecipeError
from olivebuild.engine.build_comparison import (
    Change,
    Comparison,
    between,
    headline,
    of_builds,
    of_models,
    since_last,
)
from olivebuild.engine.history import MAX_BYTES, Entry, History, NodeRun, TargetMetrics, find
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.records import Metrics
from tests.conftest import Place

RECIPE = """\
default: b
targets:
  a: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
  b: {kind: command, run: "cp {inputs.x} {outputs.m}", inputs: {x: a.x},
    outputs: {m: m.json}, metrics: m.json}
"""
PROGRAM = """\
import sys
from pathlib import Path
from tests.engine.test_history import History, entry
while True:
    History(Path(sys.argv[1]), Path(sys.argv[2])).append(entry())
"""


def entry(**more: Any) -> Entry:
    fields: dict[str, Any] = {
        "goals": ("bench",),
        "time": "2026-11-20T10:00:00Z",
        "seconds": 1.0,
        "seconds_saved": 2.0,
        "fresh": 3,
    }
    return Entry(**fields | more)


@pytest.fixture
def book(tmp_path: Path) -> History:
    return History(tmp_path / "cache", tmp_path / "olivebuild.yaml")


def test_what_is_appended_is_read(book: History) -> None:
    made = NodeRun(
        node="b",
        target="b",
        kind="command",
        key="0" * 32,
        restored=False,
        seconds=0.5,
        reasons=(Reason("file", "in.txt", "1", None),),
    )
    first = book.append(
        entry(made=(made,), measured={"b": TargetMetrics("command", "0" * 32, {"loss": 0.25})})
    )
    second = book.append(entry(failed=("b",)))
    assert (first.number, second.number) == (1, 2)
    assert book.read() == [first, second]
    assert first.causes == [Reason("file", "in.txt", "1", None)]


def test_damaged_lines_are_passed_over(book: History) -> None:
    for _ in range(3):
        book.append(entry())
    lines = book.file.read_bytes().splitlines(keepends=True)
    middle = lines[1].replace(b'"fresh":3', b'"fresh":4')
    book.file.write_bytes(b"\xff\xfe rubbish\n\n" + lines[0] + middle + lines[2][:-20])
    assert [e.number for e in book.read()] == [1]
    # The torn last line does not swallow the next one.
    assert book.append(entry()).number == 2
    assert [e.number for e in book.read()] == [1, 2]


def test_a_fault_that_names_what_is_no_text_is_written(book: History) -> None:
    book.append(entry(faults={"a": "x\udcff can't be read"}))
    assert book.read()[-1].faults == {"a": "x\\udcff can't be read"}


def test_a_line_that_a_later_version_wrote_is_read(book: History) -> None:
    from olivebuild.core import hashing

    book.append(entry())
    data = json.loads(book.file.read_text().partition(" ")[2]) | {"weather": "fine", "number": 7}
    text = hashing.canonical_json(data)
    book.file.write_text(f"{hashing.of_bytes(text)} {text}\n")
    assert [e.number for e in book.read()] == [7]


def test_threads_and_processes_lose_nothing(book: History, tmp_path: Path) -> None:
    code = PROGRAM.replace("while True:", "for _ in range(5):")
    arguments = [
        sys.executable,
        "-c",
        code,
        str(tmp_path / "cache"),
        str(tmp_path / "olivebuild.yaml"),
    ]
    processes = [subprocess.Popen(arguments, cwd=Path(__file__).parents[2]) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda: [book.append(entry()) for _ in range(5)]) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert [p.wait() for p in processes] == [0, 0]
    for thread in threads:
        thread.join()
    assert [e.number for e in book.read()] == list(range(1, 21))


def test_a_killed_writer_leaves_whole_lines(book: History, tmp_path: Path) -> None:
    arguments = [
        sys.executable,
        "-c",
        PROGRAM,
        str(tmp_path / "cache"),
        str(tmp_path / "olivebuild.yaml"),
    ]
    process = subprocess.Popen(arguments, cwd=Path(__file__).parents[2])
    while len(book.read()) < 3:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    known = book.read()
    assert [e.number for e in known] == list(range(1, len(known) + 1))
    assert book.append(entry()).number == len(known) + 1


def test_a_long_history_loses_its_older_half(book: History) -> None:
    padding = {"b": TargetMetrics("command", "0" * 32, {"x": "y" * (MAX_BYTES // 3)})}
    for _ in range(4):
        book.append(entry(measured=padding))
    assert [e.number for e in book.read()] == [3, 4]
    assert book.file.stat().st_size < MAX_BYTES * 1.1


ENTRIES = [entry(number=n, time=f"2026-11-2{n}T1{n}:00:00Z") for n in range(1, 5)]


@pytest.mark.parametrize(
    ("name", "number"),
    [("last", 4), ("last~0", 4), ("last~3", 1), ("2", 2), ("#3", 3), ("2026-11-22", 2),
     ("2027-01-01", 4), ("2026-11-23T12:59", 2),
     ("2026-11-23 13:00", 3)],
)  # fmt: skip
def test_names_find_builds(name: str, number: int) -> None:
    assert find(ENTRIES, name).number == number


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("last~4", "there is no last~4 among the 4 builds recorded"),
        ("9", "there is no 9 among the 4 builds recorded"),
        ("2026-11-20", "there is no 2026-11-20 among the 4 builds recorded"),
        ("yesterday", "'yesterday' names no build"),
        ("2026-99-99", "'2026-99-99' names no build"),
    ],
)
def test_names_that_find_nothing_are_told(name: str, fact: str) -> None:
    with pytest.raises(RecipeError) as caught:
        find(ENTRIES, name)
    assert caught.value.fact == fact
    with pytest.raises(RecipeError, match="no build has been recorded yet"):
        find([], name)


def metrics(accuracy: float, speed: float, size: float = 100e6) -> dict[str, Any]:
    base = {
        "data": {"tone": {"rows": 80, "accuracy": 0.5}},
        "tokens_per_second": 20.0,
        "size": 200e6,
    }
    return {
        "models": {
            "base": base,
            "int4": {
                "data": {"tone": {"rows": 80, "accuracy": accuracy}},
                "tokens_per_second": speed,
                "size": size,
            },
        },
        "data": ["tone"],
    }


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    return between("bench", decode(old, Metrics), decode(new, Metrics))


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (metrics(0.912, 97), "+1.2 points, 3 % slower (noise)"),
        (metrics(0.9, 100.1), "the same accuracy, as fast"),
        (metrics(0.85, 150), "-5.0 points, 50 % faster"),
    ],
)
def test_the_headline(new: dict[str, Any], told: str) -> None:
    assert headline(changes(metrics(0.9, 100), new)) == told


def test_figures_that_only_one_side_has_are_left_out() -> None:
    new = metrics(0.9, 100) | {"data": ["hard"]}
    new["models"]["int4"]["data"] = {"hard": {"accuracy": 0.9}}
    new["models"]["int4"]["tokens_per_second"] = None
    new["models"]["other"] = new["models"]["base"]
    assert [(c.model, c.data, c.figure) for c in changes(metrics(0.9, 100), new)] == [
        ("base", "tone", "accuracy"), ("base", "", "tokens_per_second"), ("base", "", "size"),
        ("int4", "", "size"),
    ]  # fmt: skip


def builds() -> list[Entry]:
    edit = NodeRun(
        node="tone",
        target="tone",
        kind="dataset",
        key="1" * 32,
        restored=False,
        seconds=1.0,
        reasons=(Reason("file", "data/tone.jsonl", "1", "2"), Reason("input", "x", "1", "2")),
    )
    measured = [
        {"bench": TargetMetrics("benchmark", str(n) * 32, metrics(0.9 - n / 100, 100.0 + n))}
        for n in range(3)
    ]
    same = TargetMetrics("benchmark", "2" * 32, metrics(0.88, 102))
    return [
        entry(number=1, measured=measured[0]),
        entry(number=2, measured=measured[1], made=(edit,)),
        entry(number=3, measured=measured[2], machine={"cores": "4"}),
        entry(number=4, measured={"bench": same}, machine={"cores": "4"}),
    ]


def test_builds_are_compared_with_what_came_between() -> None:
    entries = builds()
    found = of_builds(entries, entries[0], entries[1])
    assert [c.text for c in found.changes if c.model == "int4"] == [
        "-1.0 points",
        "1 % faster (noise)",
        "equal",
    ]
    assert [c.better for c in found.changes if c.model == "int4"] == [False, True, None]
    assert [r.what for r in found.causes] == ["data/tone.jsonl"]
    assert not of_builds(entries, entries[1], entries[2]).same_machine


def test_a_change_that_other_rows_or_another_seed_would_make_is_called_noise() -> None:
    def judged(
        accuracy: float, deviation: float, wide: float = 0.06, **more: float
    ) -> dict[str, Any]:
        spread = {"over_seeds": {"accuracy": {"deviation": deviation}}} if deviation else {}
        return {
            "models": {
                "int4": {
                    "data": {
                        "tone": {
                            "accuracy": accuracy,
                            "accuracy_interval": [accuracy - wide, accuracy + wide / 2],
                            **spread,
                        }
                    },
                    **more,
                }
            }
        }

    def told(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        return [c.text for c in changes(old, new)]

    assert told(judged(0.9, 0), judged(0.85, 0)) == ["-5.0 points (noise)"]
    # Downwards the interval reaches as far from the old figure as upwards from the new: hypot(0.06,
    # 0.03) is 0.067.
    assert told(judged(0.9, 0), judged(0.84, 0)) == ["-6.0 points (noise)"]
    assert told(judged(0.9, 0), judged(0.83, 0)) == ["-7.0 points"]
    assert told(judged(0.83, 0), judged(0.9, 0)) == ["+7.0 points"]
    # On many rows the interval is narrow; another seed would have changed as much.
    assert told(judged(0.9, 0, 0.01), judged(0.86, 0, 0.01)) == ["-4.0 points"]
    assert told(judged(0.9, 0.02, 0.01), judged(0.86, 0.02, 0.01)) == ["-4.0 points (noise)"]
    assert told(judged(0.9, 0), judged(0.9, 0)) == ["+0.0 points"]
    times = [
        {"ttft": 1.0, "ttft_interval": [0.95, 1.05]},
        {"ttft": 1.06, "ttft_interval": [1.0, 1.2]},
        {"ttft": 1.1, "ttft_interval": None},
    ]
    assert told(*({"models": {"int4": row}} for row in times[:2])) == ["6 % slower (noise)"]
    assert told(*({"models": {"int4": row}} for row in times[1:])) == ["4 % slower (noise)"]


def test_speeds_of_different_machines_are_not_told() -> None:
    entries = builds()
    assert [since_last(entries, e, "bench") for e in entries] == [
        "",
        "since build 1: -1.0 points, 1 % faster (noise)",
        "since build 2: -1.0 points",
        "",
    ]


def timed(speed: float, **latency: Any) -> dict[str, Any]:
    control = {"kernel": "k", "threads": 2, "seconds": 0.05, "stretch": 1.0}
    new = metrics(0.9, speed)
    new["models"]["int4"] |= {"ttft": 1 / speed, "peak_rss": 1e9}
    return new | {"latency": {"measured_at": "2026-11-20T10:00:00Z", "control": control} | latency}


def compared(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    entries = [
        entry(number=i, measured={"bench": TargetMetrics("benchmark", str(i) * 32, m)})
        for i, m in enumerate((old, new))
    ]
    return of_builds(entries, *entries)


def test_unchanged_code_on_a_busy_machine_is_not_slower() -> None:
    found = compared(timed(100), timed(100 / 4.78, measured_at="2026-11-21", busy=2.1))
    why = "the machine was busy: the control took 2.1 times as long"
    assert found.speeds == {"bench": why}
    speeds = [c for c in found.changes if c.model == "int4" and c.figure != "accuracy"]
    assert [(c.figure, c.text, c.better) for c in speeds] == [
        ("ttft", "not judged", None),
        ("tokens_per_second", "not judged", None),
        ("peak_rss", "equal", None),
        ("size", "equal", None),
    ]
    assert found.to_json()["speeds"] == {"bench": why}
    assert speeds[0].to_json()["why_not_judged"] == why
    assert headline(list(found.changes), no_speed=why) == f"the same accuracy, {why}"


def test_a_measurement_that_two_builds_share_is_not_compared() -> None:
    found = compared(timed(100), timed(100))
    assert found.speeds == {"bench": "same structure, not measured"}
    assert {c.figure for c in found.changes} == {"accuracy", "size"}


def test_models_that_were_measured_as_one_are_not_compared_in_speed() -> None:
    one = timed(100)
    one["models"]["base"] |= {"tokens_per_second": 100, "same_structure_as": "int4"}
    found = of_models({"bench": decode(one, Metrics)}, "base", "int4")
    assert found.speeds == {"bench": "same structure, not measured"}
    assert {c.figure for c in found.changes} == {"accuracy", "size"}


def test_a_slower_model_beside_an_equal_control_is_slower() -> None:
    found = compared(timed(100), timed(50, measured_at="2026-11-21"))
    assert found.speeds == {}
    slower = next(c for c in found.changes if (c.model, c.figure) == ("int4", "tokens_per_second"))
    assert (slower.text, slower.better) == ("50 % slower", False)


def test_models_of_a_benchmark_are_compared() -> None:
    found = of_models({"bench": decode(metrics(0.9, 100), Metrics)}, "base", "int4")
    assert [c.text for c in found.changes] == ["+40.0 points", "400 % faster", "50 % smaller"]
    with pytest.raises(RecipeError) as caught:
        of_models({"bench": decode(metrics(0.9, 100), Metrics)}, "base", "int8")
    assert (caught.value.fact, caught.value.hint) == (
        "no benchmark has measured both base and int8",
        "did you mean int4?",
    )


@pytest.fixture
def pair(place: Place) -> Place:
    place.recipe.write_text(RECIPE)
    (place.folder / "in.txt").write_text('{"loss": 0.5}')
    return place


def listed(place: Place) -> list[dict[str, Any]]:
    builds: list[dict[str, Any]] = json.loads(place.run("history", "--json").out)["builds"]
    return builds


def test_builds_leave_their_figures_and_a_no_op_leaves_nothing(pair: Place) -> None:
    assert pair.run("history").out == "no build has been recorded yet\n"
    pair.build()
    pair.build()
    (pair.folder / "in.txt").write_text('{"loss": 0.25}')
    pair.build()
    (pair.folder / "in.txt").write_text('{"loss": 0.5}')
    pair.build()
    builds = listed(pair)
    assert [b["number"] for b in builds] == [1, 2, 3]
    assert [b["measured"]["b"]["metrics"] for b in builds] == [
        {"loss": 0.5},
        {"loss": 0.25},
        {"loss": 0.5},
    ]
    assert [[(m["node"], m["restored"]) for m in b["made"]] for b in builds] == [
        [("a", False), ("b", False)], [("a", False), ("b", False)], [("a", True), ("b", True)],
    ]  # fmt: skip
    assert (
        builds[0]["measured"]["b"]["key"]
        == builds[2]["measured"]["b"]["key"]
        != builds[1]["measured"]["b"]["key"]
    )
    assert [{r["what"] for r in b["made"][0]["reasons"]} for b in builds[1:]] == [
        {"in.txt"},
        {"in.txt"},
    ]
    assert "2 run, 0 restored" in pair.run("history").out


def test_clean_keeps_the_history_and_another_recipe_has_its_own(pair: Place) -> None:
    pair.build()
    pair.run("clean")
    pair.build()
    assert len(listed(pair)) == 2
    copy = pair.folder.with_name("copy")
    copy.mkdir()
    for name in ("olivebuild.yaml", "in.txt"):
        shutil.copy(pair.folder / name, copy / name)
    assert listed(Place(copy, pair.cache)) == []


def test_the_history_follows_a_recipe_that_is_moved(pair: Place) -> None:
    pair.build()
    name = json.loads((pair.folder / "olivebuild.lock").read_text())["history"]
    assert len(name) == 32
    moved = Place(pair.folder.with_name("moved"), pair.cache)
    pair.folder.rename(moved.folder)
    assert [b["folder"] for b in listed(moved)] == [str(pair.folder)]
    moved.edit("cp in.txt", "cp ./in.txt")
    assert moved.build().code == 0
    assert [b["number"] for b in listed(moved)] == [1, 2]
    # The lock file may be deleted to pin everything anew.
    (moved.folder / "olivebuild.lock").unlink()
    moved.edit("cp ./in.txt", "cp  ./in.txt")
    moved.build()
    assert len(listed(moved)) == 3
    assert json.loads((moved.folder / "olivebuild.lock").read_text())["history"] == name


def test_a_copy_that_goes_its_own_way_has_a_history_of_its_own(pair: Place) -> None:
    pair.build()
    copy = Place(pair.folder.with_name("copy"), pair.cache)
    shutil.copytree(pair.folder, copy.folder)
    assert str(pair.folder) not in pair.run("history").out
    copy.edit("cp in.txt", "cp ./in.txt")
    copy.build()
    assert len(listed(pair)) == len(listed(copy)) == 2
    assert str(copy.folder) in pair.run("history").out
    done = copy.run("history", "--fork")
    assert (done.code, done.err) == (0, "forked the history; olivebuild.lock has its name\n")
    copy.edit("cp ./in.txt", "cp  in.txt")
    copy.build()
    assert (len(listed(pair)), len(listed(copy))) == (2, 3)
    assert [b["number"] for b in listed(copy)] == [1, 2, 3]


def test_a_history_that_joins_another_is_told(pair: Place) -> None:
    pair.build()
    lock = pair.folder / "olivebuild.lock"
    name = json.loads(lock.read_text())["history"]
    other = pair.folder.with_name("other")
    other.mkdir()
    for file in ("olivebuild.yaml", "in.txt", "olivebuild.lock"):
        shutil.copy(pair.folder / file, other / file)
    checkout = Place(other, pair.cache)
    # Its own builds are from before the lock file was checked out.
    History(pair.cache, other / "olivebuild.yaml").append(entry())
    checkout.edit("cp in.txt", "cp ./in.txt")
    done = checkout.build()
    assert "note: the history of this folder (builds: 1) has joined that of other" in done.err
    assert json.loads((other / "olivebuild.lock").read_text())["history"] == name
    assert [b["number"] for b in listed(pair)] == [1, 2, 3]


def test_builds_from_before_histories_had_names_are_kept(tmp_path: Path) -> None:
    cache, recipe = tmp_path / "cache", tmp_path / "olivebuild.yaml"
    for time in ("2026-11-20T10:00:00Z", "2026-11-22T10:00:00Z"):
        History(cache, recipe).append(entry(time=time))
    first = History(cache, recipe, "a" * 32)
    assert [e.folder for e in first.read()] == [str(tmp_path)] * 2
    assert first.append(entry(time="2026-11-23T10:00:00Z")).number == 3
    assert first.joined == 0
    assert len(list((cache / "history").glob("*.jsonl"))) == 1
    # Another checkout had a history of its own, and joins this one.
    other = tmp_path / "other/olivebuild.yaml"
    History(cache, other).append(entry(time="2026-11-21T10:00:00Z"))
    joined = History(cache, other, "a" * 32)
    assert joined.append(entry(time="2026-11-24T10:00:00Z")).number == 5
    assert joined.joined == 1
    days = [(e.number, e.time[8:10]) for e in History(cache, recipe).read()]
    assert days == [(1, "20"), (2, "21"), (3, "22"), (4, "23"), (5, "24")]


def test_a_failed_build_is_told(pair: Place) -> None:
    pair.edit("cp in.txt {outputs.x}", "cp no.txt {outputs.x}")
    assert pair.build().code == 1
    assert "failed: a" in pair.run("history").out
    done = pair.run("compare")
    fact = "there is nothing to compare: no build of 1 recorded has measured a benchmark"
    assert (done.code, fact in done.err) == (2, True)
    done = pair.run("compare", "last~1")
    assert (done.code, "there is no last~1 among the 1 builds recorded" in done.err) == (2, True)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_history_that_can_not_be_written_fails_no_build(pair: Place) -> None:
    pair.cache.joinpath("history").mkdir(parents=True)
    pair.cache.joinpath("history").chmod(0o500)
    assert pair.build().code == 0
