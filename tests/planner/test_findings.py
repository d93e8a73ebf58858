"""Inputs that can't be read are findings of a plan: told with the place in the recipe, and in the
way of nothing that does not need them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from olivebuild.cache.key import Reason
from olivebuild.core.errors import InputError
from olivebuild.planner.checks.all_checks import problems
from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.states import Verdict
from tests.conftest import Place
from tests.formats.test_safetensors import WEIGHTS, index, write
from tests.support.sites import Site

RECIPE = """\
targets:
  base: {kind: model, source: ../models/base}
  int4: {kind: onnx, model: base}
  copied: {kind: command, run: "cp {inputs.first} {outputs.x}", inputs: {first: first.x},
    files: [given], outputs: {x: x.txt}}
  first: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "models" / "base" / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'
    )
    (tmp_path / "models" / "base" / "tokenizer.json").write_text("{}")
    write(tmp_path / "models" / "base" / "model.safetensors", WEIGHTS)
    site = Site(tmp_path, RECIPE)
    site.write("given", "text")
    return site


def found(site: Site, *goals: str) -> tuple[list[PlanFinding], dict[str, str]]:
    """What is told, and the verdicts of all nodes."""
    planner = site.planner()
    try:
        plan = planner.plan(planner.graph.goals(goals), with_faults=True)
        return problems(planner, plan), {
            name: state.verdict.value for name, state in plan.states.items()
        }
    finally:
        planner.traces.close()


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def lacks_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index(folder, {"embed": "model-1.safetensors", "layer.q": "model-2.safetensors"}, WEIGHTS)


def names_no_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")


def is_gone(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def has_a_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "fact", "hint"),
    [
        (
            cut,
            "../models/base/model.safetensors: the header tells of 298 bytes, the file has 297",
            "is the download complete?",
        ),
        (
            lacks_a_shard,
            "../models/base/model.safetensors.index.json: model-2.safetensors is missing, where "
            "the index has layer.q",
            "is the download",
        ),
        (
            names_no_files,
            "../models/base/model.safetensors.index.json: not an index of weights: 'weight_map' "
            "is missing",
            "is the download complete?",
        ),
        (is_gone, "../models/base is not a folder", "paths start at "),
        (
            has_a_pipe,
            "../models/base: model.safetensors is not a file",
            "is the download complete?",
        ),
    ],
)
def test_a_model_that_cannot_be_read_stops_what_needs_it_alone(
    site: Site, damage: Callable[[Path], None], fact: str, hint: str
) -> None:
    damage(site.folder.parent / "models" / "base")
    (problem,), verdicts = found(site)
    assert (str(problem.where), problem.fact, problem.target) == (
        "olivebuild.yaml:2:23",
        fact,
        "base",
    )
    assert problem.hint.startswith(hint)
    assert "/../" not in problem.hint
    assert problem.stops == ("int4",)
    assert verdicts == {"base": "broken", "int4": "waiting", "first": "stale", "copied": "waiting"}
    with pytest.raises(InputError, match=r"^\.\./models/base"):
        site.plan("int4")


def is_missing(file: Path) -> None:
    file.unlink()


def is_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def links_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def links_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def holds_a_pipe(file: Path) -> None:
    file.unlink()
    file.mkdir()
    os.mkfifo(file / "inner")


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (is_missing, "given does not exist"),
        (is_a_pipe, "given is a named pipe, not a file"),
        (links_to_nothing, "given does not exist"),
        (links_to_itself, "given does not exist"),
        (holds_a_pipe, "given/inner is a named pipe, not a file"),
    ],
)
@pytest.mark.parametrize("waits", [True, False])
def test_so_does_a_file_whether_its_reader_is_next_or_waits(
    site: Site, damage: Callable[[Path], None], fact: str, waits: bool
) -> None:
    if not waits:
        site.made("first", x="input")
    elif damage is holds_a_pipe:
        pytest.skip("a folder is read when its reader's turn comes, since it may change until then")
    damage(site.folder / "given")
    (problem,), verdicts = found(site)
    assert (str(problem.where), problem.fact, problem.stops) == ("olivebuild.yaml:5:13", fact, ())
    assert verdicts == {
        "base": "fresh",
        "int4": "stale",
        "first": "stale" if waits else "fresh",
        "copied": "broken",
    }


def test_a_folder_named_as_a_gguf_file(tmp_path: Path) -> None:
    made = Site(tmp_path, 'targets:\n  base: {kind: model, source: "gguf:m.gguf"}\n')
    made.write("m.gguf/x", "")
    with pytest.raises(InputError, match=r"m\.gguf is a folder, not a file") as caught:
        made.plan("base")
    assert str(caught.value.where) == "olivebuild.yaml:2:23"


def test_a_disk_that_refuses_to_read_is_told_as_such(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who may do all is refused nothing, so a name that is too long stands for what the system can't
    # open.
    site.edit("files: [in.txt]", f"files: [{'x' * 300}]")
    (problem,), _ = found(site)
    assert (problem.target, problem.where.line) == ("first", 6)
    assert problem.fact.endswith(": file name too long")


def test_the_fault_is_a_reason_and_the_worst_verdict(site: Site) -> None:
    (site.folder / "given").unlink()
    planner = site.planner()
    plan = planner.plan(["copied"], with_faults=True)
    assert plan.target("copied")[0] is Verdict.BROKEN
    assert list(plan.states["copied"].reasons) == [Reason("fault", "given does not exist")]
    planner.traces.close()


def test_a_build_that_keeps_going_makes_the_rest(place: Place) -> None:
    models = place.folder.parent / "models" / "base"
    models.mkdir(parents=True)
    place.recipe.write_text(
        RECIPE
        + (
            '  last: {kind: command, run: "cp {inputs.copied} {outputs.x}", inputs: {copied: '
            "copied.x}, outputs: {x: x.txt}}\n"
        )
    )
    (place.folder / "in.txt").write_text("input")
    # Without -k nothing begins.
    done = place.build("int4", "last", "first")
    assert (done.code, done.events[-1]["ran"], done.events[-1]["failed"]) == (
        1,
        [],
        ["base", "copied"],
    )
    done = place.build("-k", "int4", "last", "first")
    assert (done.code, done.events[-1]["ran"], done.events[-1]["failed"]) == (
        1,
        ["first"],
        ["base", "copied"],
    )
    assert (
        "olivebuild.yaml:2:23: error: ../models/base: not a Hugging Face model folder: "
        "config.json is missing" in done.err
    )
    assert "olivebuild.yaml:5:13: error: given does not exist" in done.err
    planned = place.run("plan", "--json", "int4", "last")
    assert planned.code == 1
    assert [(p["target"], p["stops"]) for p in json.loads(planned.out)["problems"]] == [
        ("base", ["int4"]),
        ("copied", ["last"]),
    ]
    for verb in ("status", "why"):
        told = place.run(verb, *(["last"] if verb == "why" else []))
        assert told.code == 1
        assert "given does not exist" in told.err
    (place.folder / "given").write_text("now")
    assert place.build("last").ran == ["copied", "last"]


def test_a_file_that_goes_while_others_are_made_is_told_when_its_turn_comes(place: Place) -> None:
    for name in ("in.txt", "given"):
        (place.folder / name).write_text("text")
    program = f"\"sh -c 'rm {place.folder}/given; cp {place.folder}/in.txt {{outputs.x}}'\""
    place.recipe.write_text(RECIPE.replace('"cp in.txt {outputs.x}"', program))
    done = place.build("-k", "copied")
    assert (done.code, done.events[-1]["ran"], done.events[-1]["failed"]) == (
        1,
        ["first"],
        ["copied"],
    )
    assert "olivebuild.yaml:5:13: error: given can't be read: no such file or directory" in done.err


def test_a_source_that_can_not_be_asked_for_stops_what_needs_it_alone(place: Place) -> None:
    place.environment |= {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(place.folder / "hf"),
    }
    place.recipe.write_text(RECIPE.replace("../models/base", "hf:own/tiny"))
    (place.folder / "in.txt").write_text("input")
    done = place.build("-k", "int4", "first")
    assert (done.code, done.events[-1]["ran"], done.events[-1]["failed"]) == (
        1,
        ["first"],
        ["base"],
    )
    assert "olivebuild.yaml:2:23: error: hf:own/tiny" in done.err
