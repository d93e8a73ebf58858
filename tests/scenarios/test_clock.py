"""Chat templates that write the date, built for real: on two days, in two zones, with two random
states, in two caches; and judged on others.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.action import ActionInput
from olivebuild.cache.store import Store
from olivebuild.formats import template_clock
from olivebuild.ml.kinds.measurements import accuracy as benchmark_accuracy_kind
from tests.conftest import RECIPE, Place, rows, write_rows
from tests.scenarios.steps import job_in

pytestmark = pytest.mark.scenario
DATE = "2026-01-02"
TODAY = "from olivebuild.formats import template_clock; print(template_clock.today())"
WRITTEN = 'prompt: "<|user|>\\n{phrase}<|end|>\\n<|assistant|>\\n"\n    completion: "{tone}<|end|>"'
ASKED = 'user: "{phrase}"\n    assistant: "{tone}"'
SHIFTS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long shift(void) { return atol(getenv("SHIFTED_DAYS")) * 86400; }
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(id, t);
    if (!answer && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += shift();
    return answer;
}
time_t time(time_t *where) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return where ? (*where = t.tv_sec) : t.tv_sec;
}
int gettimeofday(struct timeval *where, void *zone) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    where->tv_sec = t.tv_sec, where->tv_usec = t.tv_nsec / 1000;
    return 0;
}
"""
"""The system's clock, some days off, for a process and all that it starts."""


def dated(place: Place, tiny_model: Path, before: str, lock: str = "") -> str:
    """A recipe whose model's template begins with `before`, which asks for the date.

    Returns the template.
    """
    shutil.copytree(tiny_model, place.folder / "tiny")
    file = place.folder / "tiny" / "chat_template.jinja"
    file.write_text(before + file.read_text())
    write_rows(place.folder / "data/tone.jsonl", rows())
    place.recipe.write_text(RECIPE)
    place.edit(WRITTEN, ASKED)
    if lock:
        (place.folder / "olivebuild.lock").write_text(lock)
    return file.read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"),
    reason="needs a compiler, and a linker that can put its functions first",
)
def test_equal_inputs_give_equal_bytes_and_figures_on_whatever_day(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "shifts.c").write_text(SHIFTS)
    subprocess.run(
        [
            "cc",
            "-shared",
            "-fPIC",
            "-w",
            "-o",
            tmp_path / "shifts.so",
            tmp_path / "shifts.c",
            "-ldl",
        ],
        check=True,
    )
    made: list[dict[str, bytes]] = []
    figures: list[Any] = []
    days: list[str] = []
    lock = ""
    # Days that have been, since what waits until a time by this clock would wait for days that are
    # to come.
    for seed, zone, shift in (("1", "UTC-14", "0"), ("2", "UTC+12", "-400")):
        environment = {
            "PYTHONHASHSEED": seed,
            "TZ": zone,
            "LD_PRELOAD": str(tmp_path / "shifts.so"),
            "SHIFTED_DAYS": shift,
        }
        place = Place(tmp_path / seed, tmp_path / f"cache{seed}", environment)
        dated(place, tiny_model, "{{ 'It is ' + strftime_now('%d %b %Y %H:%M:%S') + '\\n' }}", lock)
        place.recipe.write_text(
            place.recipe.read_text()
            + (
                "  bench: {kind: benchmark, models: [merged, onnx-int4], data: tone, latency: "
                "{rounds: 1}}\n"
            )
        )
        days.append(
            subprocess.check_output(
                [sys.executable, "-c", TODAY],
                env=environment,
                text=True,
            )
        )
        done = place.build("bench")
        assert done.ran == ["tone", "adapter", "merged", "onnx-int4", "bench"], done.err
        lock = (place.folder / "olivebuild.lock").read_text()
        assert json.loads(lock)["template_date"] == days[0].strip()
        built = place.everything()
        metrics = json.loads(built["bench/metrics.json"])
        assert all(
            len(row["data"]["tone"]["other_dates"]) == 2 for row in metrics["models"].values()
        )
        figures.append({name: row["data"] for name, row in metrics["models"].items()})
        made.append({name: data for name, data in built.items() if not name.startswith("bench/")})
    assert days[0] != days[1]
    assert {
        "adapter/adapter_model.safetensors",
        "merged/model.safetensors",
        "onnx-int4/model.onnx",
        "onnx-int4/model.onnx.data",
    } <= made[0].keys()
    assert made[0] == made[1]
    assert figures[0] == figures[1]


def test_the_template_that_is_published_has_the_date(tiny_model: Path, tmp_path: Path) -> None:
    """Of a merge and of a conversion, where the base says so; and the fixed one is no clock for
    whoever reads the folder.
    """
    place = Place(tmp_path / "work", tmp_path / "cache")
    lock = json.dumps({"sources": {}, "libraries": {}, "template_date": DATE})
    template = dated(
        place, tiny_model, "{{ 'It is ' + strftime_now('%d %b %Y %H:%M:%S') + '\\n' }}", lock
    )
    place.edit("source: tiny}", "source: tiny, template_date: freeze}")
    done = place.build("merged", "onnx-int4")
    assert done.ran == ["tone", "adapter", "merged", "onnx-int4"], done.err
    for folder in ("merged", "onnx-int4"):
        assert place.built(folder, "chat_template.jinja").decode() == template_clock.fixed(
            template, DATE
        )
        assert not template_clock.folder_reads_clock(place.folder / "build" / folder)
    # The base itself is not touched.
    assert template_clock.folder_reads_clock(place.folder / "tiny")


@pytest.mark.usefixtures("one_thread")
def test_answers_that_hang_on_the_date_are_counted_and_told(copied: Place, tmp_path: Path) -> None:
    copied.edit(WRITTEN, ASKED)
    assert copied.build("tone").ran == ["tone"]
    folder, table = copied.folder / "build/merged", str(copied.folder / "build/tone/test.parquet")
    plain = (folder / "chat_template.jinja").read_text()

    def judged(name: str, before: str) -> tuple[dict[str, Any], list[str]]:
        """The figures, and what was told meanwhile."""
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.jinja").write_text(before + plain)
        inputs = {
            "model": ActionInput(str(folder), str(folder), "model", "merged"),
            "data[0]": ActionInput(table, table, "dataset", "tone"),
        }
        job = job_in(
            tmp_path / name,
            Store(copied.cache),
            inputs,
            fields={"max_new_tokens": 5},
            template_date=DATE,
        )
        benchmark_accuracy_kind.run(job)
        figures: dict[str, Any] = json.loads((job.out / "metrics.json").read_text())[0]
        notes = [
            event["text"]
            for line in job._stream.getvalue().splitlines()
            if (event := json.loads(line))["event"] == "note"
        ]
        return figures, notes

    figures, notes = judged("hangs", "{{ 'crying afraid glad ' * (strftime_now('%d') | int * 3) }}")
    other = figures["other_dates"]
    assert list(other) == ["2026-01-03", "2026-07-21"]
    assert {row["rows"] for row in other.values()} == {8}
    changed = {date: row["changed"] for date, row in other.items()}
    assert max(changed.values()) > 0
    assert notes == [
        f"{n} of 8 answers are other ones where the chat template writes {date} and not {DATE}"
        for date, n in changed.items()
        if n
    ]
    # It asks for the date, and says the same on all of these.
    figures, notes = judged("same", "{{ 'glad ' if strftime_now('%Y') == '2026' else 'afraid ' }}")
    assert [row["changed"] for row in figures["other_dates"].values()] == [0, 0]
    assert notes == []
    figures, _ = judged("none", "")
    assert "other_dates" not in figures
