"""The step of data sets: what is dropped, told and split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.data.origins import origins_of
from olivebuild.ml.kinds import dataset as dataset_kind
from olivebuild.steps.dataset import STEP, DatasetFields
from tests.conftest import Place
from tests.data.test_conversation import A
from tests.support.rows import ASKED, plain, run


def test_drops_are_told_with_reasons_counts_and_places(tmp_path: Path) -> None:
    job, notes = run(tmp_path, [*plain(38), {"q": "", "a": "no"}, {"q": "x", "a": None}], **ASKED)
    told = (
        "2 of 40 rows dropped: 1 x no value for q (first source.jsonl:39); 1 x no value for a "
        "(first source.jsonl:40)"
    )
    assert told in notes
    metrics: Any = job.result.metrics
    assert [(d["why"], d["count"]) for d in metrics["drops"]] == [
        ("no value for q", 1),
        ("no value for a", 1),
    ]
    assert metrics["dropped"] == 2


def test_more_drops_than_are_allowed_fail_and_leave_a_report(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run(tmp_path, [*plain(17), *({"q": "", "a": "no"} for _ in range(3))], **ASKED)
    assert str(caught.value.where) == "source.jsonl:18"
    assert caught.value.fact == "3 of 20 rows dropped: 3 x no value for q (first source.jsonl:18)"
    assert "max_dropped: 0.15" in caught.value.hint
    assert "rows.report.json" in caught.value.hint
    assert json.loads((tmp_path / "rows.report.json").read_text())["drops"][0]["count"] == 3
    _, notes = run(
        tmp_path, [*plain(17), *({"q": "", "a": "no"} for _ in range(3))], max_dropped=0.15, **ASKED
    )
    assert caught.value.fact in notes
    assert not (tmp_path / "rows.report.json").exists()


def test_a_row_that_moves_is_the_same_row(tmp_path: Path) -> None:
    rows, digests, origins = plain(10), [], []
    for lines in (0, 3):
        job, _ = run(tmp_path, rows, **ASKED)
        if lines:
            (tmp_path / "source.jsonl").write_text(
                "\n" * lines + (tmp_path / "source.jsonl").read_text()
            )
            dataset_kind.run(job)
        digests.append(job.result.digests)
        asked = [
            {"q": row["prompt"], "a": row["completion"]}
            for row in pq.read_table(tmp_path / "out/train.parquet").to_pylist()
        ]
        origins.append(origins_of(tmp_path / "out/train.parquet"))
        assert [str(origins[-1].of(i)) for i in range(len(asked))] == [
            f"source.jsonl:{rows.index(row) + 1 + lines}" for row in asked
        ]
        # As it was before there were origins: what is made of the whole folder is not made again
        # for them.
        files = [
            tmp_path / "out" / name for name in ("report.json", "test.parquet", "train.parquet")
        ]
        assert (
            digests[-1][""]
            == Manifest(
                tuple(
                    Entry.of_runs(p.name, [(hashing.of_file(p), p.stat().st_size)]) for p in files
                )
            ).digest
        )
    assert digests[0] == digests[1]
    assert origins[0] != origins[1]
    assert origins[0].of(10) is None
    assert origins_of(tmp_path / "elsewhere/test.parquet").max_dropped == 0.05


def test_duplicates_and_turns_without_weight_do_not_fail(tmp_path: Path) -> None:
    chats = [
        {"m": [{"role": "user", "content": f"q{n} a{n * 5}"}, A | ({"weight": 0} if n % 2 else {})]}
        for n in range(20)
    ]
    _, notes = run(tmp_path, [*chats, *chats], messages="m")
    assert any(
        n.startswith("20 of 40 rows dropped: 20 x every turn of the assistant has weight 0")
        for n in notes
    )


def test_a_test_file_that_holds_training_rows_is_told(tmp_path: Path) -> None:
    rows = [
        {"q": f"{w} one two three four five six seven eight nine", "a": "yes"}
        for w in ("red", "dog", "sky")
    ]
    test = [rows[0], rows[1] | {"q": rows[1]["q"] + " ten"}, {"q": "something else", "a": "no"}]
    _, notes = run(tmp_path, rows, test, near_duplicates=True, **ASKED)
    assert any(
        "2 of 3 test rows are near a row of train, 1 of them to the letter" in n for n in notes
    )
    with pytest.raises(InputError, match="2 of 3 test rows are near a row of train"):
        run(tmp_path, rows, test, strict=True, **ASKED)


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    rows = [row | {"who": f"customer {n // 5}"} for n, row in enumerate(plain(60))]
    run(tmp_path, rows, group_by="who", holdout=0.3, **ASKED)
    test = {r["prompt"] for r in pq.read_table(tmp_path / "out/test.parquet").to_pylist()}
    split = [{row["q"] in test for row in rows[i : i + 5]} for i in range(0, 60, 5)]
    assert all(len(found) == 1 for found in split)
    assert {True} in split
    assert {False} in split


@pytest.mark.parametrize(
    "fields", [{"near_duplicates": False}, {"near_duplicates": False, "group_by": "a"}]
)
def test_one_group_is_an_error_that_says_what_to_set(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    words = list("abcdefghijklmnopqrstuv")
    rows = [
        {"q": " ".join([*words[:n], f"w{n}", *words[n + 1 :]]), "a": f"{n % 2}"}
        for n in range(len(words))
    ]
    with pytest.raises(InputError) as caught:
        run(tmp_path, rows, **ASKED)
    assert caught.value.fact.startswith(
        "no row is held out with holdout 0.2: the 22 rows are one group of near-duplicates"
    )
    assert "near_duplicates: false" in caught.value.hint
    job, _ = run(tmp_path, rows, **fields, **ASKED)
    metrics: Any = job.result.metrics
    assert min(metrics["test"], metrics["train"]) > 0


def test_a_side_that_is_empty_by_chance_gets_the_nearest_group(tmp_path: Path) -> None:
    for seed in range(12):
        job, _ = run(tmp_path, plain(3), seed=seed, **ASKED)
        metrics: Any = job.result.metrics
        assert min(metrics["test"], metrics["train"]) > 0


def test_new_fields_at_their_defaults_are_no_parameters() -> None:
    given = {"source": "a.jsonl", "text": "{a}"}
    named = set(STEP.parameters(DatasetFields.model_validate(given)))
    assert not named & {"near_duplicates", "group_by", "max_dropped", "strict"}
    assert set(
        STEP.parameters(DatasetFields.model_validate(given | {"group_by": "a"}))
    ) - named == {"group_by"}


def test_drops_are_in_status_and_in_each_form_of_the_report(place: Place) -> None:
    (place.folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*plain(60), {"q": "", "a": "no"}])
    )
    place.recipe.write_text(
        'targets:\n  rows: {kind: dataset, source: rows.jsonl, prompt: "{q}", completion: "{a}"}\n'
    )
    assert place.build().ran == ["rows"]
    told = "1 of 61 rows dropped: 1 x no value for q (first rows.jsonl:61)"
    assert told in place.run("status").out
    assert json.loads(place.run("status", "--json").out)["targets"][0]["dropped"] == [told]
    assert told in place.run("report", "--markdown", "--junit", "gates.xml").out
    assert told in (place.folder / "gates.xml").read_text()
    assert (
        json.loads(place.run("report", "--json").out)["datasets"][0]["drops"][0]["why"]
        == "no value for q"
    )
    place.run("report")
    page = (place.folder / "build/report.html").read_text().replace("<wbr>", "")
    assert "rows.jsonl:61" in page
