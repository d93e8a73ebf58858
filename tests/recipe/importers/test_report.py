"""The report of an import: four lists, and no secret."""

from __future__ import annotations

from pathlib import Path

from olivebuild.recipe.importers.olive.better import sides
from olivebuild.recipe.importers.report import better_lines, to_json, to_lines
from tests.recipe.importers.olive.examples import flat, imported, nested


def test_the_lists_together_are_all_values(tmp_path: Path) -> None:
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.8]\n")
    done = imported(tmp_path, nested(typo=1))
    report = to_json(done, {"recipe": "r.yaml"})
    lists = ("mapped", "no_effect", "meant_else", "refused")
    assert sum(report["counts"].values()) == len(done.document.leaves())
    assert [report["counts"][name] for name in lists] == [len(report[name]) for name in lists]
    assert report["refused"] == [
        {
            "path": "typo",
            "line": done.document.line(("typo",)),
            "value": 1,
            "fact": "unknown field 'typo'",
            "hint": report["refused"][0]["hint"],
            "stops": True,
        }
    ]
    assert report["olive"]["version"] == "0.6.2"
    assert report["environments"][0]["lines"][0]["list"] == "meant_else"
    assert report["placeholders"][0]["text"] == "compute"
    text = "\n".join(line for _, line in to_lines(done))
    assert text.startswith("read as a workflow of Olive 0.6.2: its words are those of 0.6.2")
    assert f"{len(done.entries)} values: " in text
    for entry in done.entries:
        assert f"line {entry.line} " in text


def test_no_secret_is_shown(tmp_path: Path) -> None:
    value = flat(hf_token="hf_secretsecretsecret")
    value["input_model"]["load_kwargs"] = {"token": "hf_secretsecretsecret"}
    done = imported(tmp_path, value)
    shown = "\n".join(line for _, line in to_lines(done))
    assert "secretsecret" not in shown + str(to_json(done)) + done.recipe


def test_both_recipes_stand_side_by_side(tmp_path: Path) -> None:
    literal = imported(tmp_path, nested())
    better = imported(tmp_path, nested(), better=True)
    lines = [text for _, text in better_lines(sides(literal.recipe, better.recipe))]
    assert "  tune.sequences.form: 'blocks' -> -" in lines
    assert [text for _, text in better_lines(())][-1] == "  no difference"
