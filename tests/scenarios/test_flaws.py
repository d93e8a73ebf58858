"""Rows that a model can't be trained on or asked are counted by their reasons, told with their
places in the data, and held against
`max_dropped`: before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.action import ActionInput, Asked
from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from tests.conftest import Place
from tests.scenarios.steps import job_in
from tests.support.rows import run

pytestmark = pytest.mark.scenario

TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') "
    "}}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CHAT: dict[str, Any] = {"messages": "m", "near_duplicates": False}


def chat(n: int, *, system: bool = False, answer: str = "yes", **last: Any) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": f"sky {n}?"},
        {"role": "assistant", "content": answer} | last,
    ]
    return {"m": [{"role": "system", "content": "be brief"}, *turns] if system else turns}


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """With a chat template that takes no system message."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def job_for(folder: Path, model: Path, rows: list[dict[str, Any]], **fields: Any) -> Job:
    """An adapter's job, on the data set that the step makes of the rows."""
    source = folder / "source"
    source.mkdir(parents=True)
    run(source, rows, **{"holdout": 0, **CHAT, **fields})
    data = ActionInput(str(source / "out"), str(source / "out/train.parquet"), "dataset", "chats")
    places = {"": ["olivebuild.yaml", 7, 3, ""], "data": ["olivebuild.yaml", 8, 5, ""]}
    job = job_in(
        folder / "job",
        Store(folder / "cache"),
        {"model": ActionInput(str(model), str(model), "model", "base"), "data": data},
        places=places,
    )
    job.log = str(folder / "adapter.log")
    return job


def checked(job: Job, max_length: int = 1024) -> dict[str, Any]:
    """What training does with its rows before it begins."""
    from olivebuild.ml.inference.context import check_asked, check_rows
    from olivebuild.ml.training.training_data import load_data
    from olivebuild.ml.training.unusable_rows import check_flaws
    from olivebuild.steps.adapter import AdapterFields

    fields = AdapterFields.model_validate(
        {"model": "base", "data": "chats.train", "training": {"max_length": max_length}}
    )
    data, folder = load_data(job, fields), job.input("model").folder
    rows = data.stream
    figures = check_flaws(job, rows, folder, "data", "data")
    check_rows(job, rows, folder, "data", "data")
    check_asked(job, data.encoder)
    assert len(rows) == rows.read - rows.dropped
    return figures


def notes(job: Job) -> str:
    return job._stream.getvalue()  # type: ignore[no-any-return]


def test_rows_that_the_template_refuses_are_drops(tmp_path: Path, model: Path) -> None:
    rows = [*(chat(n) for n in range(38)), chat(38, system=True), chat(39)]
    job = job_for(tmp_path / "few", model, rows)
    told = (
        "1 of 40 rows dropped: 1 x refused by the chat template: System role not supported (first "
        "source.jsonl:39)"
    )
    assert checked(job)["read"] == 40
    assert told in notes(job)
    # The second time they are known.
    assert checked(job)["drops"][0]["first"] == "source.jsonl:39"
    rows[3:5] = [chat(n, system=True) for n in (3, 4)]
    job = job_for(tmp_path / "many", model, rows)
    with pytest.raises(InputError) as caught:
        checked(job)
    assert str(caught.value.where) == "source.jsonl:4"
    assert caught.value.fact == (
        "3 of 40 rows dropped: 3 x refused by the chat template: System role not supported (first "
        "source.jsonl:4)"
    )
    assert "`max_dropped: 0.08` on chats says so (it is 0.05)" in caught.value.hint
    assert json.loads((tmp_path / "many/adapter.report.json").read_text())["drops"][0]["count"] == 3
    assert (
        checked(job_for(tmp_path / "allowed", model, rows, max_dropped=0.08))["drops"][0]["count"]
        == 3
    )
    job = job_for(
        tmp_path / "all", model, [chat(n, system=True) for n in range(4)], max_dropped=1.0
    )
    assert checked(job)["drops"][0]["count"] == 4


def test_rows_that_are_too_long_are_held_against_the_limit(tmp_path: Path, model: Path) -> None:
    rows = [
        *(chat(n) for n in range(30)),
        chat(30, answer="no " * 60),
        chat(31, system=True),
        *(chat(n) for n in range(32, 40)),
    ]
    job = job_for(tmp_path / "few", model, rows)
    assert checked(job, 60)["drops"][0]["cut"] is True
    told = (
        "1 of 40 rows dropped and 1 cut: 1 x longer than max_length 60: the end of its answer is "
        "cut (first source.jsonl:31); "
    )
    assert (
        told + "1 x refused by the chat template: System role not supported (first source.jsonl:32)"
        in notes(job)
    )
    job = job_for(
        tmp_path / "many", model, [*rows, *(chat(n, answer="no " * 60) for n in range(40, 45))]
    )
    with pytest.raises(InputError) as caught:
        checked(job, 60)
    assert "1 of 45 rows dropped and 6 cut: 6 x longer than max_length 60" in caught.value.fact
    assert str(caught.value.where) == "source.jsonl:31"
    assert "training.max_length: " in caught.value.hint
    # What asks not to be learnt is no fault.
    weightless = [chat(n, weight=0) for n in range(8)]
    for row in weightless:
        row["m"] = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            *row["m"],
        ]
    job = job_for(tmp_path / "weightless", model, [*rows[:30], *weightless])
    assert checked(job)["drops"] == [
        {
            "why": "the last turn has weight 0",
            "count": 8,
            "first": "source.jsonl:31",
            "fault": False,
        }
    ]


def test_rows_beyond_the_context_are_told_with_the_longest(tmp_path: Path, model: Path) -> None:
    job = job_for(
        tmp_path / "rows",
        model,
        [chat(0, system=True), *(chat(n) for n in range(1, 30)), chat(30, answer="no " * 600)],
    )
    with pytest.raises(
        InputError,
        match=r"^1 of 31 rows have more than the 512 tokens that the model takes, the longest 18",
    ) as caught:
        checked(job, 5000)
    assert (str(caught.value.where), caught.value.hint) == (
        "source.jsonl:31",
        "training.max_length: 512 cuts them; or leave them out",
    )
    with pytest.raises(InputError, match="cut") as caught:
        checked(
            job_for(tmp_path / "more", model, [chat(n, answer="no " * 600) for n in range(9)]), 512
        )
    assert "the model takes 512 tokens: shorten them" in caught.value.hint


def test_rows_that_a_benchmark_asks_in_vain_are_told_before_training(
    tmp_path: Path, model: Path
) -> None:
    def asking(name: str, rows: list[dict[str, Any]], new_tokens: int, *, whole: bool) -> Job:
        asked = tmp_path / name / "asked"
        asked.mkdir(parents=True)
        run(asked, rows, **{"holdout": 1, **CHAT})
        job = job_for(tmp_path / name, model, [chat(n) for n in range(9)])
        job.action = job.action._replace(
            asked=[Asked("bench", str(asked / "out/test.parquet"), new_tokens, whole)]
        )
        return job

    checked(asking("right", [chat(n) for n in range(9)], 400, whole=True))
    with pytest.raises(InputError) as caught:
        checked(
            asking("refused", [*(chat(n) for n in range(9)), chat(9, system=True)], 16, whole=False)
        )
    assert caught.value.fact == (
        "1 of 10 rows that bench asks can't be asked: refused by the chat template: System role "
        "not supported"
    )
    assert str(caught.value.where) == "source.jsonl:10"
    long = chat(9)
    long["m"][0]["content"] = "sky " * 130
    checked(asking("short", [*(chat(n) for n in range(9)), long], 400, whole=False))
    with pytest.raises(
        InputError,
        match=r"its answer up to 400, and the model takes 512; 1 of 10 rows that bench asks "
        r"are too "
        r"long$",
    ) as caught:
        checked(asking("long", [*(chat(n) for n in range(9)), long], 400, whole=True))
    assert str(caught.value.where) == "source.jsonl:10"


def test_a_benchmark_of_its_own_tells_the_row(tmp_path: Path, model: Path) -> None:
    from olivebuild.ml.data.examples import read_table
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.inference.context import check_prompts, examples_of
    from olivebuild.ml.models.load import load_tokenizer

    run(tmp_path, [*(chat(n) for n in range(9)), chat(9, system=True)], **{"holdout": 1, **CHAT})
    table, encoder = read_table(tmp_path / "out/test.parquet"), Encoder(load_tokenizer(model))
    with pytest.raises(
        InputError,
        match=r"^1 of 10 rows to ask can't be asked: refused by the chat template: System role",
    ) as caught:
        examples_of(encoder, table)
    assert str(caught.value.where) == "source.jsonl:10"
    check_prompts(str(model), [100, 500], 12, table)
    with pytest.raises(
        InputError,
        match=r"^the prompt has 500 tokens, its answer up to 13, and the model takes 512$",
    ) as caught:
        check_prompts(str(model), [100, 500], 13, table)
    assert str(caught.value.where) == "source.jsonl:2"
    # An ONNX folder says it elsewhere, and may promise less than its source.
    (model / "genai_config.json").write_text(json.dumps({"model": {"context_length": 90}}))
    with pytest.raises(InputError, match=r"and the model takes 90; 2 of 2 rows are too long$"):
        check_prompts(str(model), [100, 500], 12, table)


RECIPE = """\
targets:
  base: {kind: model, source: model}
  chats: {kind: dataset, source: chats.jsonl, messages: m, near_duplicates: false, holdout: 0}
  asked: {kind: dataset, source: asked.jsonl, messages: m, near_duplicates: false, holdout: 1}
  adapter: {kind: adapter, model: base, data: chats, training: {steps: 1, batch: 2}}
  merged: {kind: merged, model: base, adapter: adapter}
  bench: {kind: benchmark, models: [merged], data: asked}
"""


@pytest.mark.slow
def test_a_build_tells_them_first_and_status_and_report_keep_them(
    place: Place, model: Path
) -> None:
    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (place.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    shutil.move(model, place.folder / "model")
    place.recipe.write_text(RECIPE)
    write("chats.jsonl", [chat(n, system=n > 30) for n in range(40)])
    write("asked.jsonl", [chat(n, system=n == 5) for n in range(9)])
    told = (
        "9 of 40 rows dropped: 9 x refused by the chat template: System role not supported (first "
        "chats.jsonl:32)"
    )
    done = place.run("build", "bench")
    assert done.code == 1
    assert told in done.err
    assert f"the last run failed: {told}" in place.run("status").out
    assert json.loads(place.run("status", "--json").out)["targets"][-3]["dropped"] == [
        f"the last run failed: {told}"
    ]
    report = place.run("report", "--markdown", "--junit", "gates.xml")
    assert f"adapter: the last run failed: {told}" in report.out
    assert told in (place.folder / "gates.xml").read_text()
    place.run("report")
    assert told in (place.folder / "build/report.html").read_text()
    # The rows of the benchmark come next, still before training.
    write("chats.jsonl", [chat(n, system=n > 38) for n in range(40)])
    done = place.run("build", "bench")
    assert "asked.jsonl:6" in done.err
    assert "1 of 9 rows that bench asks can't be asked" in done.err
    write("asked.jsonl", [chat(n) for n in range(9)])
    assert place.build("adapter").ran == ["adapter"]
    told = (
        "1 of 40 rows dropped: 1 x refused by the chat template: System role not supported (first "
        "chats.jsonl:40)"
    )
    status = place.run("status").out
    assert told in status
    assert "failed" not in status
    # A row that moves is the same row.
    (place.folder / "chats.jsonl").write_text("\n\n" + (place.folder / "chats.jsonl").read_text())
    assert place.build("adapter").ran == ["chats"]
