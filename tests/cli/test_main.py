"""The command line without a model: exit codes, JSON, completion, and that every command has an
example.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from contextlib import redirect_stdout

import click
import pytest

from olivebuild.cli.main import VERB_MODULES, main
from olivebuild.engine.build_report import BuildReport
from olivebuild.recipe.command_names import COMMANDS, NEWER_COMMANDS
from olivebuild.ui import console
from tests.conftest import Place

RECIPE = """\
default: b
targets:
  a: {kind: command, run: "cp {inputs.x} {outputs.y}", inputs: {x: first}, outputs: {y: y.txt}}
  first: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
  b: {kind: command, run: "cp -v {inputs.x} {outputs.y}", inputs: {x: a.y}, outputs: {y: y.txt}}
"""


@pytest.fixture
def chain(place: Place) -> Place:
    """Three commands, each copying the one before."""
    place.recipe.write_text(RECIPE.replace("{x: first}", "{x: first.x}"))
    (place.folder / "in.txt").write_text("one")
    return place


def test_build_no_op_edit_undo(chain: Place) -> None:
    assert chain.build().ran == ["first", "a", "b"]
    assert chain.built("b", "y.txt") == b"one"
    assert chain.build().end["fresh"] == ["first", "a", "b"]
    (chain.folder / "in.txt").write_text("two")
    assert chain.verdicts() == {"first": "stale", "a": "waiting", "b": "waiting"}
    assert chain.build().ran == ["first", "a", "b"]
    assert chain.built("b", "y.txt") == b"two"
    (chain.folder / "in.txt").write_text("one")
    assert chain.build().end["restored"] == ["first", "a", "b"]


def test_the_bare_command_builds_the_default(chain: Place) -> None:
    assert chain.run().out.splitlines()[-1].startswith("3 built in ")
    assert chain.run().out == "nothing to do: b is fresh\n"
    assert chain.run("-j", "2", "a").out == "nothing to do: a is fresh\n"
    assert chain.run("-j2", "plan", "first").out == "fresh    first\n"


def test_many_goals_are_counted_instead_of_named(place: Place) -> None:
    names = [f"t{i}" for i in range(1200)]
    place.recipe.write_text(
        "targets:\n"
        + "".join(f"  {n}: {{kind: command, run: 'true', outputs: {{y: y}}}}\n" for n in names)
    )
    for count, told in (
        (8, "t0, t1, t2, t3, t4, t5, t6, t7"),
        (9, "9 targets"),
        (1200, "1,200 targets"),
    ):
        report = BuildReport(goals=names[:count])
        with redirect_stdout(io.StringIO()) as out:
            console.show_summary(report)
        assert out.getvalue() == f"nothing to do: {told} are fresh\n"
    failed = place.run("build", "unlike")
    assert failed.code == 2
    assert failed.err.endswith("hint: known are: " + ", ".join(names[:40]) + " and 1,160 more\n")


def test_plan_json_has_the_fields_of_the_contract(chain: Place) -> None:
    rows = json.loads(chain.run("plan", "--json").out)["targets"]
    assert [sorted(row) for row in rows] == [
        ["key", "kind", "reasons", "seconds", "target", "verdict"]
    ] * 3
    assert [(r["target"], r["kind"], r["verdict"], r["key"] is None) for r in rows] == [
        ("first", "command", "stale", False),
        ("a", "command", "waiting", True),
        ("b", "command", "waiting", True),
    ]
    assert rows[0]["reasons"] == [
        {"cause": "new", "what": "never built here", "old": None, "new": None}
    ]


def test_why_goes_down_to_the_root_cause(chain: Place) -> None:
    chain.build()
    (chain.folder / "in.txt").write_text("two")
    story = json.loads(chain.run("why", "b", "--json").out)
    assert (story["target"], story["verdict"]) == ("b", "waiting")
    root = story["causes"][0]["causes"][0]
    assert (root["target"], root["verdict"]) == ("first", "stale")
    assert [(r["cause"], r["what"]) for r in root["reasons"]] == [("file", "in.txt")]


def test_why_tells_of_a_failure_when_and_with_what_until_the_target_is_made(place: Place) -> None:
    place.recipe.write_text(
        'targets:\n  first: {kind: command, run: "cp in.txt {outputs.x}", outputs: {x: x.txt}}\n'
        "  then: {kind: command, run: 'cp {inputs.first} {outputs.x}', inputs: {first: first.x}, "
        "outputs: {x: x.txt}}\n"
    )
    assert place.build("then").code == 1
    told = place.run("why", "then").out
    assert re.search(
        r"\n  first will run, because:\n    it failed in build 1 \(\d{4}-\d\d-\d\d .* UTC\): "
        r"olivebuild\.yaml:2:26: first: the command ended",
        told,
    )
    assert "never built here" not in told.partition("first will run")[2]
    assert "failed" in json.loads(place.run("why", "first", "--json").out)["notes"][0]
    place.edit("cp in.txt", f"cp {place.recipe}")
    assert place.build("then").ran == ["first", "then"]
    place.edit("first: {kind: command,", "first: {kind: command, files: [olivebuild.lock],")
    (place.folder / "olivebuild.lock").write_text('{"sources": {}, "libraries": {}}')
    assert "failed" not in place.run("why", "then").out


def test_set_overrides_a_field(chain: Place) -> None:
    chain.build()
    assert chain.build("--set", "b.outputs.y=z.txt").ran == ["b"]
    done = chain.run("plan", "--set", "b.rum=1")
    assert done.code == 2
    assert "--set b.rum=1: error: unknown key 'rum' in b" in done.err


def test_another_recipe_has_outputs_of_its_own(chain: Place) -> None:
    chain.recipe.rename(chain.folder / "other.yaml")
    assert chain.build("-f", "other.yaml").ran == ["first", "a", "b"]
    assert chain.built("other", "b", "y.txt") == b"one"


def test_a_target_and_another_recipe_do_not_share_a_folder(chain: Place) -> None:
    shutil.copy(chain.recipe, chain.folder / "first.yaml")
    assert chain.build("-f", "first.yaml").code == 0
    done = chain.run()
    assert (done.code, "would lie in one folder, build/first" in done.err) == (2, True)
    (chain.folder / "first.yaml").unlink()
    assert chain.build().ran == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nothing"], 2, "there is no target 'nothing'"),
        (["pln"], 2, "did you mean plan, the command?"),
        (["firs"], 2, "did you mean first?"),
        (["plan", "--jsn"], 2, "No such option"),
        (["-C", "nowhere", "plan"], 2, "is not a folder"),
        (["-f", "no.yaml"], 2, "there is no recipe here"),
        (["log", "b"], 1, "b has no log"),
        (["accept", "first"], 1, "first has no old result here to accept"),
    ],
)
def test_errors_have_an_exit_code_and_a_hint(
    chain: Place, arguments: list[str], code: int, text: str
) -> None:
    done = chain.run(*arguments)
    assert done.code == code
    assert text in done.err
    assert "hint: " in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", NEWER_COMMANDS)
def test_a_target_with_the_name_of_a_command_is_built_only_where_it_is_asked_for(
    chain: Place, name: str
) -> None:
    chain.edit("first:", f"{name}:")
    chain.recipe.write_text(chain.recipe.read_text().replace("first.", f"{name}."))
    done = chain.run(name)
    assert (done.code, done.out) == (2, "")
    assert f"`olivebuild build {name}` builds the target" in done.err
    assert name in chain.build(name).ran


def test_every_command_is_known_to_recipes() -> None:
    assert set(VERB_MODULES) == {*COMMANDS, *NEWER_COMMANDS}


def test_status_log_clean(chain: Place) -> None:
    chain.build()
    rows = json.loads(chain.run("status", "--json").out)["targets"]
    assert [(r["target"], r["verdict"], r["size"]) for r in rows] == [
        ("first", "fresh", 3),
        ("a", "fresh", 3),
        ("b", "fresh", 3),
    ]
    assert chain.run("log", "b").code == 0
    assert chain.run("clean", "--dry-run").out == "would delete build/\nwould delete .olivebuild/\n"
    assert chain.run("clean").code == 0
    assert chain.build().end["restored"] == ["first", "a", "b"]


def test_clean_leaves_what_other_recipes_of_the_folder_have_made(chain: Place) -> None:
    (chain.folder / "other.yaml").write_text(RECIPE.replace("{x: first}", "{x: first.x}"))
    assert chain.run("first").code == chain.run("-f", "other.yaml", "first").code == 0
    # Without what it remembers, another recipe's folder is known by its file.
    for state in (True, False):
        assert "would delete build/first/" in chain.run("clean", "--dry-run").out.splitlines()
        done = chain.run("clean")
        assert done.out.splitlines()[0] == "deleted build/first/"
        assert sorted(p.name for p in (chain.folder / "build").iterdir()) == ["other"]
        assert (chain.folder / ".olivebuild/other").is_dir() is state
        if state:
            shutil.rmtree(chain.folder / ".olivebuild/other")
        assert chain.run("first").code == 0
    assert chain.run("-f", "other.yaml", "clean").out.splitlines() == [
        "deleted build/other/",
        "deleted .olivebuild/other/",
    ]


def test_graph_forms(chain: Place) -> None:
    tree = "b (command)\n`-- a.y (command)\n    `-- first.x (command)\n"
    assert chain.run("graph").out == tree
    assert '"first" -> "a" [label="x"];' in chain.run("graph", "--dot").out
    assert chain.run("graph", "--mermaid").out.startswith("graph LR\n")


def test_doctor_tells_what_each_kind_can_run(place: Place) -> None:
    facts = json.loads(place.run("doctor", "--json").out)
    assert facts["kinds"]["command"] == {"runs": True, "missing": []}
    assert facts["cores"] >= 1


def test_shell_completion_knows_targets(chain: Place) -> None:
    chain.environment |= {
        "_OLIVEBUILD_COMPLETE": "bash_complete",
        "COMP_WORDS": "olivebuild plan fi",
        "COMP_CWORD": "2",
    }
    done = chain.run()
    assert done.out == "plain,first\n"
    # An answer of the bare command that was kept is none for a shell.
    del chain.environment["_OLIVEBUILD_COMPLETE"]
    for _ in range(3):
        assert chain.run().code == 0
    chain.environment["_OLIVEBUILD_COMPLETE"] = "bash_complete"
    assert chain.run().out == "plain,first\n"


def test_every_command_has_an_example() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command
        assert command.name == name
        assert command.help
        assert f"olivebuild {name}" in command.help or name == "build", name


LOSES = """\
import pathlib, shutil, sys
if pathlib.Path("x.txt").read_text() == "2":
    shutil.rmtree("build/a")
    for blob in pathlib.Path(sys.argv[2]).glob("blobs/??/*"):
        if blob.read_bytes() == b"of a":
            blob.unlink()
pathlib.Path(sys.argv[1]).write_text(pathlib.Path("x.txt").read_text())
"""


def test_a_build_that_begins_anew_counts_and_keeps_what_it_had_done(place: Place) -> None:
    """What was to be as it was last is lost while steps run, one of which is stopped and runs
    again.
    """
    again = place.folder.parent / "again"
    command = '{{kind: command, run: "{}", shell: true, {}, outputs: {{o: o.txt}}}}'
    join = "cat {inputs.a} {inputs.x} > {outputs.o}"
    wait = f"until [ -e {again} ]; do sleep 0.05; done; cp x.txt {{outputs.o}}"
    place.recipe.write_text(
        "targets:\n"
        + f"  a: {command.format(f'touch {again} && cp in.txt {{outputs.o}}', 'files: [in.txt]')}\n"
        + f"  u: {command.format('cp {inputs.a} {outputs.o}', 'inputs: {a: a.o}')}\n"
        + f"  x: {command.format(f'python x.py {{outputs.o}} {place.cache}', 'files: [x.txt]')}\n"
        + f"  c: {command.format(join, 'inputs: {a: a.o, x: x.o}')}\n"
        + f"  s: {command.format(wait, 'files: [x.txt]')}\n"
    )
    for name, text in (("in.txt", "of a"), ("x.txt", "1"), ("x.py", LOSES)):
        (place.folder / name).write_text(text)
    time.sleep(0.1)
    assert place.build().code == 0
    for _ in range(2):
        time.sleep(0.1)
        (place.folder / "in.txt").touch()
        assert place.build().ran == []
    again.unlink()
    (place.folder / "x.txt").write_text("2")
    time.sleep(0.1)
    done = place.build("-j", "3")
    assert [e["event"] for e in done.events].count("plan") == 2, done.events
    assert (sorted(done.ran), done.end["fresh"], done.end["failed"]) == (
        ["a", "c", "s", "x"],
        ["u"],
        [],
    )
    builds = json.loads(place.run("history", "--json").out)["builds"]
    assert sorted(made["node"] for made in builds[-1]["made"]) == ["a", "c", "s", "x"]
