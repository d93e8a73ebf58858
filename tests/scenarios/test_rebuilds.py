"""What an edit makes stale, and nothing else: real steps on a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Place, rows, write_rows

pytestmark = pytest.mark.scenario
DATA = "data/tone.jsonl"


def test_a_build_after_a_build_runs_nothing(copied: Place) -> None:
    done = copied.build()
    assert done.end["ran"] == done.end["restored"] == []
    assert done.end["fresh"] == ["base", "tone", "adapter", "merged", "onnx-int4"]


def test_a_row_edited_and_the_edit_undone(copied: Place) -> None:
    before = copied.everything()
    edited = rows()
    edited[0]["phrase"] = "I am glad about the moon tonight"
    write_rows(copied.folder / DATA, edited)
    assert copied.verdicts() == {
        "base": "fresh",
        "tone": "stale",
        "adapter": "waiting",
        "merged": "waiting",
        "onnx-int4": "waiting",
    }
    why = copied.run("why", "onnx-int4")
    assert "file data/tone.jsonl: " in why.out
    assert copied.build("merged", "onnx-int4").ran == ["tone", "adapter", "merged", "onnx-int4"]
    assert (
        copied.built("adapter", "adapter_model.safetensors")
        != before["adapter/adapter_model.safetensors"]
    )
    write_rows(copied.folder / DATA, rows())
    undone = copied.build("merged", "onnx-int4")
    assert undone.ran == []
    assert undone.end["restored"] == ["tone", "adapter", "merged", "onnx-int4"]
    assert copied.everything() == before


def test_a_file_touched(copied: Place) -> None:
    os.utime(copied.folder / DATA)
    assert copied.build().ran == []


def test_the_data_moved_with_equal_content(copied: Place) -> None:
    (copied.folder / DATA).rename(copied.folder / "rows.jsonl")
    copied.edit("source: data/tone.jsonl", "source: rows.jsonl")
    assert copied.build().ran == []


def test_keys_reordered_and_white_space_between_fields_stop_at_the_dataset(copied: Place) -> None:
    text = "".join(
        json.dumps(
            {"tone": r["tone"], "phrase": r["phrase"]}, indent=None, separators=(" , ", " : ")
        )
        + "\n"
        for r in rows()
    )
    (copied.folder / DATA).write_text(text)
    assert copied.build().ran == ["tone"]


def test_the_learning_rate_changed(copied: Place) -> None:
    copied.edit("lr: 1e-3", "lr: 2e-3")
    assert copied.build().ran == ["adapter", "merged", "onnx-int4"]


def test_a_builder_option_changed(copied: Place) -> None:
    before = copied.built("onnx-int4", "model.onnx.data")
    copied.edit("block_size: 32", "block_size: 16")
    assert copied.build().ran == ["onnx-int4"]
    assert copied.built("onnx-int4", "model.onnx.data") != before


def test_comments_key_order_and_defaults_written_out(copied: Place) -> None:
    copied.edit(
        "kind: onnx, model: merged, precision: int4, provider: cpu",
        "kind: onnx, provider: cpu, model: merged",
    )
    copied.edit("    r: 4\n", "    # a comment\n    dropout: 0.0\n    r: 4\n")
    assert copied.build().ran == []


@pytest.mark.parametrize(("library", "ran"), [("pyarrow", ["tone"]), ("onnx-ir", ["onnx-int4"])])
def test_a_library_version_changed(
    copied: Place, tmp_path: Path, library: str, ran: list[str]
) -> None:
    # A dist-info folder earlier on the path: the installed version, as importlib.metadata tells it.
    info = tmp_path / "site" / f"{library.replace('-', '_')}-99.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 99.9\n")
    copied.environment["PYTHONPATH"] = str(tmp_path / "site")
    row = next(
        r for r in json.loads(copied.run("plan", "--json").out)["targets"] if r["target"] == ran[0]
    )
    assert [(r["cause"], r["what"], r["new"]) for r in row["reasons"]] == [
        ("library", library, "99.9")
    ]
    assert copied.build().ran == ran


def test_accept_keeps_the_old_result_for_a_new_version(copied: Place, tmp_path: Path) -> None:
    info = tmp_path / "site" / "peft-99.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 99.9\n")
    copied.environment["PYTHONPATH"] = str(tmp_path / "site")
    assert copied.verdicts()["adapter"] == "stale"
    assert copied.run("accept", "adapter").code == 0
    assert copied.run("accept", "merged").code == 0
    assert copied.build().ran == []


def test_one_row_added_moves_no_other_row(copied: Place) -> None:
    pq = pytest.importorskip("pyarrow.parquet")

    def split(name: str) -> set[str]:
        return set(
            pq.read_table(copied.folder / f"build/tone/{name}.parquet")["prompt"].to_pylist()
        )

    train, test = split("train"), split("test")
    write_rows(
        copied.folder / DATA,
        [*rows(), {"phrase": "nobody expected such weather in this town", "tone": "surprise"}],
    )
    assert copied.build("tone").ran == ["tone"]
    assert train <= split("train")
    assert test <= split("test")
    assert len(split("train") | split("test")) == len(train | test) + 1


def test_a_clean_build_elsewhere_gives_the_same_bytes(copied: Place, tmp_path: Path) -> None:
    elsewhere = Place(copied.folder, tmp_path / "other-cache")
    before = copied.everything()
    assert elsewhere.run("clean").code == 0
    assert elsewhere.build("merged", "onnx-int4").ran == ["tone", "adapter", "merged", "onnx-int4"]
    assert elsewhere.everything() == before


def test_no_op_plan_why_and_help_import_nothing_heavy(copied: Place) -> None:
    heavy = (
        "torch",
        "transformers",
        "peft",
        "datasets",
        "onnx",
        "onnxruntime",
        "onnxruntime_genai",
        "bitsandbytes",
        "pyarrow",
        "numpy",
    )
    for arguments in (
        ["plan"],
        ["why", "onnx-int4"],
        ["--help"],
        ["onnx-int4"],
        ["build", "--json"],
        ["status"],
        ["graph"],
    ):
        code = (
            f"import sys; sys.argv = ['olivebuild', *{arguments}]\nfrom "
            "olivebuild.cli.main import run\n"
            f"try: run()\nexcept SystemExit: pass\nprint(sorted(set({heavy}) & set(sys.modules)), "
            "file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=copied.folder,
            env=os.environ | {"OLIVEBUILD_CACHE": str(copied.cache)},
            capture_output=True,
            text=True,
        )
        assert done.stderr.strip().splitlines()[-1] == "[]", arguments


def test_a_benchmark_judges_gates_on_every_build(copied: Place) -> None:
    recipe = copied.recipe.read_text()
    fields = (
        "models: [base, merged, onnx-int4], data: [tone], baseline: tone, latency: {rounds: 1}, "
        'gates: ["accuracy >= 0"]'
    )
    bench = f"  bench: {{kind: benchmark, {fields}}}\n"
    copied.recipe.write_text(recipe + bench)
    first = copied.build("bench")
    assert first.code == 0, first.err
    assert first.ran == ["bench"]
    table = copied.run("bench").out
    assert "tf-idf + logistic regression" in table
    metrics = json.loads(copied.built("bench", "metrics.json"))
    assert list(metrics["models"]) == ["base", "merged", "onnx-int4"]
    assert all(
        row["peak_rss"] > 0 and row["tokens_per_second"] > 0 and row["size"] > 0
        for row in metrics["models"].values()
    )
    copied.edit("accuracy >= 0", "accuracy >= 1.1")
    missed = copied.build("bench")
    assert missed.code == 3
    assert missed.ran == []
    assert [(g["gate"], g["passed"]) for g in missed.end["gates"]] == [("accuracy >= 1.1", False)]
