"""import and run on the command line: what is written, exit codes, and that nothing runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Place
from tests.recipe.importers.olive.examples import flat, nested

TARGET = '{kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}'


def write(place: Place, value: Any) -> None:
    (place.folder / "olive-config.json").write_text(json.dumps(value, indent=2))


def test_import_writes_a_recipe_and_the_report(place: Place) -> None:
    write(place, nested())
    (place.folder / "conda.yaml").write_text("dependencies: [python=3.8]\n")
    done = place.run("import", "olive-config.json", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert set(report["written"]) == {"recipe", "environment.yaml"}
    assert (place.folder / "environment.yaml").is_file()
    again = place.run("import", "olive-config.json")
    assert (again.code, "already" in again.err) == (2, True)
    forced = place.run("import", "olive-config.json", "--force", "--better")
    assert forced.code == 0, forced.err
    assert "as Olive does it, and as we would recommend" in forced.out
    assert "\x1b" not in forced.out
    other = place.run("import", "olive-config.json", "-o", "deep/er")
    assert (place.folder / "deep/er/olivebuild.yaml").is_file(), other.err
    assert "../../letters.json" in (place.folder / "deep/er/olivebuild.yaml").read_text()
    assert "next: olivebuild -C deep/er plan" in other.out


def test_a_fault_is_an_error_with_the_report_and_nothing_written(place: Place) -> None:
    write(place, flat(targett="here"))
    done = place.run("import", "olive-config.json")
    assert done.code == 2
    assert "olive-config.json:" in done.err
    assert "targett: unknown field 'targett'" in done.err
    assert "did you mean target?" in done.err
    assert "refused (1)" in done.out
    assert [p.name for p in place.folder.iterdir()] == ["olive-config.json"]
    run = place.run("run", "--config", "olive-config.json")
    assert (run.code, "refused (1)" in run.err) == (2, True)
    assert not (place.folder / "build").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [("{", 1), ('{"input_model":\n {"type": "HfModel",}}', 2), ("// no\n{}", 1)],
)
def test_malformed_json_is_one_error(place: Place, text: str, line: int) -> None:
    (place.folder / "olive-config.json").write_text(text)
    done = place.run("import", "olive-config.json")
    assert done.code == 2
    assert done.err.startswith(f"olive-config.json:{line}:")
    assert "Traceback" not in done.err


def test_a_value_that_no_target_takes_is_told_where_the_file_has_it(place: Place) -> None:
    value = nested()
    value["passes"]["tune"]["config"]["training_args"]["adam_beta2"] = 1.5
    write(place, value)
    done = place.run("import", "olive-config.json")
    assert done.code == 2
    assert "passes.tune.config.training_args.adam_beta2" in done.err
    assert not (place.folder / "olivebuild.yaml").exists()


@pytest.mark.parametrize("verb", ["run", "import"])
def test_a_target_of_a_commands_name_is_never_something_else(place: Place, verb: str) -> None:
    write(place, flat())
    (place.folder / "in.txt").write_text("x")
    place.recipe.write_text(f"targets:\n  {verb}: {TARGET}\n")
    before = sorted(p.name for p in place.folder.iterdir())
    for words in ((verb,), (verb, "olive-config.json"), (verb, "--config", "olive-config.json")):
        done = place.run(*words)
        assert done.code == 2, words
        if words[1:2] != ("--config",) or verb == "run":
            assert f"`olivebuild build {verb}` builds the target" in done.err, words
    assert sorted(p.name for p in place.folder.iterdir()) == before
    assert place.build(verb).ran == [verb]


def test_an_import_runs_nothing_and_trusts_nothing(place: Place) -> None:
    canary = place.folder / "canary"
    script = f"open({str(canary)!r}, 'w')"
    for name in ("user.py", "sitecustomize.py", "conftest.py"):
        (place.folder / name).write_text(script)
    value = nested()
    value["input_model"]["config"] |= {"model_script": "user.py", "model_loader": "load"}
    value["input_model"]["config"]["hf_config"]["from_pretrained_args"] = {
        "trust_remote_code": True
    }
    value["data_configs"][0] = value["data_configs"][0] | {"user_script": "user.py"}
    write(place, value)
    done = place.run("import", "olive-config.json", "--json")
    place.run("plan")
    place.run("run", "--config", "olive-config.json", "onnx")
    assert not canary.exists()
    report = json.loads(done.out)
    trusted = [e for name in ("mapped", "meant_else") for e in report[name] if "trust" in e["path"]]
    assert trusted == []


@pytest.mark.parametrize("verb", ["run", "import"])
def test_without_a_workflow_a_command_says_what_it_needs(place: Place, verb: str) -> None:
    done = place.run(verb)
    assert (done.code, f"{verb} needs a workflow of Olive" in done.err) == (2, True)


def test_a_placeholder_stops_what_needs_it_alone(place: Place) -> None:
    value = nested()
    value["data_configs"][0]["load_dataset_config"]["params"]["data_files"] = "<rows>"
    write(place, value)
    done = place.run("run", "--config", "olive-config.json")
    line = json.dumps(value, indent=2).splitlines().index('          "data_files": "<rows>",') + 1
    assert done.code == 2
    assert f"olive-config.json:{line}: error: data_configs[0]" in done.err
    assert "letters.source is a placeholder (rows), which onnx needs" in done.err
    assert "write its value into the workflow" in done.err
    assert place.run("import", "olive-config.json").code == 0
    assert place.run("plan", "base").code != 2
    assert place.run("plan").code == 2


def test_run_builds_beside_the_file(place: Place) -> None:
    (place.folder / "sub").mkdir()
    (place.folder / "sub/letters.json").write_text(
        json.dumps([{"question": f"{i}?", "answer": "a"} for i in range(8)])
    )
    value = nested()
    (place.folder / "sub/olive-config.json").write_text(json.dumps(value))
    words = ("run", "--config", "sub/olive-config.json", "letters", "--executor", "local")
    done = place.run(*words)
    assert done.code == 0, done.err
    assert (place.folder / "sub/build/olive-config/letters/train.parquet").is_file()
    assert (place.folder / "sub/.olivebuild/imported/olive-config.yaml").is_file()
    assert "read as Olive 0.6.2" in done.err
    again = place.run(*words)
    assert "nothing to do" in again.out
    value["data_configs"][0]["pre_process_data_config"]["params"]["text_template"] = "{question}"
    (place.folder / "sub/olive-config.json").write_text(json.dumps(value))
    changed = place.run(*words)
    assert "1 built" in changed.out, changed.out
