"""What a command reads: words, modules, variables.

They count, or are told; secrets are kept nowhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from olivebuild.core import environment
from olivebuild.core.environment import Mask
from olivebuild.core.errors import RecipeError
from olivebuild.core.hashing import StatMemo
from olivebuild.planner import scripts
from olivebuild.planner.checks.commands import said_of
from olivebuild.planner.scan import Scan
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.graph import build_graph
from olivebuild.recipe.lockfile import Lockfile
from olivebuild.steps.parts.command_line import program_of, words_in
from tests.conftest import Place


@pytest.mark.parametrize(
    ("run", "by_shell", "words", "modules"),
    [
        ("python train.py --config=conf.yaml data", False, "python train.py conf.yaml data", ""),
        ("python -u -m pkg.train --lr 1e-3", False, "python pkg.train 1e-3", "pkg.train"),
        ("python -mpkg.train", False, "python", "pkg.train"),
        ("torchrun --nproc_per_node 2 -m pkg.train", False, "torchrun 2 pkg.train", "pkg.train"),
        ("cat <d.txt >out.txt 2>>log", True, "cat d.txt 2", ""),
        ("cat < d.txt | sort -k1 > {out}/x && (wc -l <other)", True, "cat d.txt sort wc other", ""),
        ('bash -ec "cat d.txt >x; sh more.sh"', False, "bash cat d.txt sh more.sh", ""),
        ("curl -d @body.json {inputs.a}", False, "curl @body.json body.json", ""),
        (
            "A=conf.txt env B=other.txt ./tool",
            True,
            "A=conf.txt conf.txt env B=other.txt other.txt ./tool",
            "",
        ),
        ("awk '" + "x" * 300 + "' d.txt", False, "awk d.txt", ""),
        ("echo $HOME/x '$5'", True, "echo", ""),
    ],
)
def test_words_that_may_be_files(run: str, by_shell: bool, words: str, modules: str) -> None:
    found = program_of(run, by_shell=by_shell, environment={})
    assert [*found.words] == words.split()
    assert [*found.modules] == modules.split()


def test_code_on_the_command_line_is_code_of_the_program_that_takes_it() -> None:
    assert program_of("python -c 'import helper'", by_shell=False, environment={}).code == (
        "import helper",
    )
    assert program_of("grep -c word file", by_shell=False, environment={}).code == ()
    assert program_of(
        "PYTHONPATH=src:lib python x.py", by_shell=True, environment={"PYTHONPATH": "more"}
    ).roots == ("src", "lib", "more")


def test_words_of_a_script_line_by_line() -> None:
    text = (
        '#!/bin/sh\n# run.txt\nset -e\nX="it is\ncat data.txt | ./sort.sh >out.txt\nexec python '
        'train.py "$1"\n'
    )
    assert words_in(text) == ["set", "cat", "data.txt", "./sort.sh", "exec", "python", "train.py"]


def scan_of(folder: Path, run: str, more: str = "") -> tuple[Scan, scripts.Reading, list[str]]:
    """What a recipe's command reads: the scan, the modules and the like, and what is told."""
    (folder / FILE_NAME).write_text(
        f"targets:\n  c: {{kind: command, run: {json.dumps(run)}, outputs: [x]{more}}}\n"
    )
    graph = build_graph(load(folder / FILE_NAME))
    scan = Scan(
        graph.recipe, StatMemo(folder / ".olivebuild/stats"), Lockfile(folder / "olivebuild.lock")
    )
    node = graph.nodes["c"]
    return scan, scan.program(node), [fact for fact, _ in said_of(scan, node)]


TREE = {
    "train.py": "import os, json, torch, helpers\nfrom pkg.sub import thing\nimport missing_one\n",
    "helpers.py": "from more import *\nimport importlib\nimportlib.import_module('late')\n",
    "more.py": "import train\n",
    "late.py": "",
    "unused.py": "",
    "pkg/__init__.py": "",
    "pkg/__main__.py": "from . import other\n",
    "pkg/other.py": "",
    "pkg/sub/__init__.py": "from ..base import Base\nfrom .near import x\n",
    "pkg/sub/thing.py": "def f():\n    from pkg.sub import deep\n",
    "pkg/sub/deep.py": "",
    "pkg/sub/near.py": "x = 1\n",
    "pkg/base.py": "class Base: ...\n",
    "names/space/inside.py": "import late\n",
    "src/lib/__init__.py": "",
    "src/lib/core.py": "",
    "tools/run.py": "import beside, late\n",
    "tools/beside.py": "",
    "app/__main__.py": "import part\n",
    "app/part.py": "",
    "adds.py": "import sys, os\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), "
    "'src'))\nimport lib.core\n",
    "adds_odd.py": "import sys\nsys.path.append(sys.argv[1])\n",
    "broken.py": "def :\n",
    "tool": "#!/usr/bin/env python3\nimport late\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


OF_TRAIN = (
    "helpers.py late.py more.py pkg/__init__.py pkg/base.py pkg/sub/__init__.py "
    "pkg/sub/deep.py pkg/sub/near.py pkg/sub/thing.py"
)


@pytest.mark.parametrize(
    ("run", "modules"),
    [
        ("python train.py", OF_TRAIN),
        ("accelerate launch train.py", OF_TRAIN),
        ("python -m pkg", "pkg/__init__.py pkg/__main__.py pkg/other.py"),
        ("python -m pkg.other", "pkg/__init__.py pkg/other.py"),
        ("python -m names.space.inside", "late.py names/space/inside.py"),
        ("python -m pytest", ""),
        ("python tools/run.py", "tools/beside.py"),
        ("python app", "app/__main__.py app/part.py"),
        ("python -c 'import late'", "late.py"),
        ("python adds.py", "src/lib/__init__.py src/lib/core.py"),
        ("env PYTHONPATH=src python -m lib.core", "src/lib/__init__.py src/lib/core.py"),
        ("python broken.py", ""),
        ("./tool", "late.py"),
        ("sh -c 'python tools/run.py'", "tools/beside.py"),
    ],
)
def test_modules_that_a_script_imports_count(tree: Path, run: str, modules: str) -> None:
    _, reading, told = scan_of(tree, run)
    assert [path.relative_to(tree).as_posix() for path in reading.modules] == modules.split()
    assert told == []


def test_a_module_that_comes_later_or_changes_is_found(tree: Path) -> None:
    scan, _, _ = scan_of(tree, "python train.py")
    node = build_graph(load(tree / FILE_NAME)).nodes["c"]
    before = scan.files(node)
    assert scan.outdated() is None
    assert tree in scan.depends_on()
    (tree / "json.py").write_text("")
    assert scan.outdated() == tree / "json.py"
    scan, _, _ = scan_of(tree, "python train.py")
    after = scan.files(node)
    assert {shown for _, _, shown in after} - {shown for _, _, shown in before} == {"json.py"}
    (tree / "pkg/sub/near.py").write_text("x = 2\n")
    assert scan.changed(node) == tree / "pkg/sub/near.py"


@pytest.mark.parametrize(
    ("run", "more", "told"),
    [
        ("python tools/run.py data", "", "`run` of c names data, of which"),
        ("python tools/run.py data", ", files: [data]", ""),
        ("python tools/run.py data", ", files: ['data/*.txt']", ""),
        ("python tools/run.py --rows=data .", "", "`run` of c names data, ., of which"),
        ("cat data/*.txt", ", shell: true", "`run` of c names data/*.txt, of which"),
        ("cat data/a.txt", ", shell: true", ""),
        ("sh run.sh", "", "run.sh names data/a.txt, late.py, of which c knows"),
        ("sh run.sh late.py", ", files: [data/a.txt]", ""),
        ("python adds_odd.py src/lib/core.py", "", "adds_odd.py says in `sys.path` where else"),
        ("/bin/sh -c true /dev/null /", "", ""),
    ],
)
def test_what_is_named_and_does_not_count_is_told(
    tree: Path, run: str, more: str, told: str
) -> None:
    (tree / "data").mkdir()
    (tree / "data/a.txt").write_text("")
    (tree / "run.sh").write_text("python late.py data/a.txt nothing.txt\n")
    _, _, found = scan_of(tree, run, more)
    assert len(found) == bool(told)
    assert all(told in fact for fact in found)


def test_files_elsewhere_are_told_and_programs_are_not(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "rows.txt").write_text("")
    (other / "tool").write_text("#!/bin/sh\n")
    (other / "tool").chmod(0o755)
    _, _, told = scan_of(tree, f"{other}/tool {other}/rows.txt {other}")
    assert [fact.partition(", of which")[0] for fact in told] == [
        f"`run` of c names {other}/rows.txt, {other}"
    ]


READS = """\
import os
from os import environ, getenv
a = os.environ["ONE"] + os.environ.get("TWO", "") + os.getenv("THREE")
b = environ["FOUR"], getenv("FIVE"), "SIX" in os.environ, os.path.expandvars("$SEVEN/x")
os.environ["OURS"] = "1"
c = other["NONE"], d.get("NONE"), os.environ["PATH"], os.environ["GIVEN"]
"""


def test_variables_that_a_command_does_not_get_are_told_by_name(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "ONE",
        "TWO",
        "THREE",
        "FOUR",
        "FIVE",
        "SIX",
        "SEVEN",
        "OURS",
        "NONE",
        "GIVEN",
        "IN_RUN",
        "IN_SHELL",
        "LISTED",
    ):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("TWO")
    (tree / "late.py").write_text(READS)
    (tree / "run.sh").write_text(
        'echo "${IN_SHELL:-no}" $LISTED $HOME $OLIVEBUILD_OUT $LC_ALL $OMP_NUM_THREADS\n'
    )
    more = ", shell: true, environment: {GIVEN: y}, env: {keyed: [LISTED]}"
    _, _, told = scan_of(tree, "echo $IN_RUN; sh run.sh; python tools/run.py; python late.py", more)
    assert told == [
        "late.py, run, run.sh of c reads FIVE, FOUR, IN_RUN, IN_SHELL, ONE, SEVEN, SIX, THREE of "
        "the environment, "
        "which a command gets only if `env` lists it"
    ]


def test_the_base_of_the_environment_always_passes() -> None:
    """Where things lie, who runs them, language, network, devices, threads: and no secret."""
    passing = (
        "PATH HOME LANG LC_ALL LC_NUMERIC TMPDIR https_proxy NO_PROXY SSL_CERT_FILE "
        "CUDA_VISIBLE_DEVICES OMP_NUM_THREADS HF_HOME MKL_CBWR"
    )
    stopped = (
        "HF_TOKEN AWS_SECRET_ACCESS_KEY GITHUB_TOKEN MODE CI PYTHONHASHSEED PYTHONSTARTUP "
        "LD_PRELOAD BASH_ENV"
    )
    given = dict.fromkeys((passing + " " + stopped).split(), "x")
    assert {*environment.of_command(given, ["MODE"])} == {*passing.split(), "MODE"}


@pytest.mark.parametrize(
    ("env", "fact"),
    [
        ("{keyed: [A=b]}", "c.env.keyed: 'A=b' is not the name of a variable"),
        ("{passed: ['']}", "c.env.passed: '' is not the name of a variable"),
        ("{keyed: [A], passed: [A]}", "c: A is said twice"),
        ("{keyed: [B]}", "c: B is said twice"),
        ("{kept: [A]}", "unknown key 'kept' in c"),
    ],
)
def test_lists_of_variables_that_say_nothing_right(tmp_path: Path, env: str, fact: str) -> None:
    (tmp_path / FILE_NAME).write_text(
        f"targets:\n  c: {{kind: command, run: x, outputs: [y], environment: {{B: b}}, env: "
        f"{env}}}\n"
    )
    with pytest.raises(RecipeError) as e:
        assert load(tmp_path / FILE_NAME)
    assert e.value.fact == fact
    assert e.value.where


# -- secrets


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_secret_is_masked_however_the_output_is_cut(size: int) -> None:
    secrets = [
        "hf_abcdefghij",
        "abcdefghijkl",
        "two lines\nof a private key",
        'quo"ted/secret',
        "short",
    ]
    text = (
        b"a hf_abcdefghij b abcdefghijkl hf_abcdefghi short hf_hf_abcdefghij "
        b'of a private key {"t": "quo\\"ted/secret"} quo%22ted%2Fsecret end abcdefgh'
    )
    mask = Mask(secrets)
    out = b"".join(mask.feed(text[i : i + size]) for i in range(0, len(text), size)) + mask.rest()
    stars = b"********"
    assert out == b'a %s b %s hf_abcdefghi short hf_%s %s {"t": "%s"} %s end abcdefgh' % (
        (stars,) * 6
    )


def test_what_can_not_begin_a_secret_is_not_held_back() -> None:
    mask = Mask(["secret-value"])
    assert mask.feed(b"step 1 of 9\n") == b"step 1 of 9\n"
    assert mask.feed(b"loss: se") == b"loss: "
    assert mask.feed(b"ven\n") == b"seven\n"
    assert not Mask(["short"])
    assert Mask(["short"]).feed(b"short") == b"short"


SCRIPT = """\
import os, sys, helper
print("the token is", os.environ.get("HF_TOKEN"), file=sys.stderr)
text = helper.V + os.environ.get("MODE", "-") + os.environ.get("OTHER", "-")
open(os.environ["OLIVEBUILD_OUT"] + "/x", "w").write(text)
"""


def test_a_command_gets_what_is_listed_and_its_result_belongs_to_that(tmp_path: Path) -> None:
    """A helper beside the script, a keyed variable, another one, a secret: built, edited, undone,
    and compared with a clean build.
    """
    (tmp_path / "work").mkdir()
    place = Place(
        tmp_path / "work", tmp_path / "cache", {"HF_TOKEN": "hf_SECRETTOKEN123", "OTHER": "seen"}
    )
    (place.folder / "main.py").write_text(SCRIPT)
    (place.folder / "helper.py").write_text("V = 'one'\n")
    env = "env: {keyed: [MODE], passed: [HF_TOKEN]}"
    place.recipe.write_text(
        f"targets:\n  c: {{kind: command, run: python main.py, outputs: [x], {env}}}\n"
    )

    done = place.run()
    assert place.built("c/x") == b"one--"
    assert "main.py of c reads OTHER of the environment" in done.err + done.out
    assert place.run().out == place.run().out == "nothing to do: c is fresh\n"

    place.environment["MODE"] = "on"
    assert 'environment MODE: not set -> "on"' in place.run("why", "c").out
    assert place.build().ran == ["c"]
    assert place.built("c/x") == b"oneon-"
    (place.folder / "helper.py").write_text("V = 'three'\n")
    assert place.build().ran == ["c"]
    assert place.built("c/x") == b"threeon-"

    place.environment["HF_TOKEN"] = "hf_ANOTHERTOKEN"
    assert place.build().ran == []
    (place.folder / "helper.py").write_text("V = 'one'\n")
    del place.environment["MODE"]
    assert place.build().end["restored"] == ["c"]
    assert place.built("c/x") == b"one--"

    assert "the token is ********" in place.run("log", "c").out
    kept = [p for folder in (place.folder, place.cache) for p in folder.rglob("*") if p.is_file()]
    assert len(kept) > 10
    assert not [
        p for p in kept if b"SECRETTOKEN" in p.read_bytes() or b"ANOTHERTOKEN" in p.read_bytes()
    ]


def test_output_of_what_is_left_running_does_not_hold_up_the_command(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    place = Place(tmp_path / "work", tmp_path / "cache", {"TOKEN": "a-long-secret"})
    run = "sleep 300 & echo a-long-secret; echo > {out}/x"
    place.recipe.write_text(
        f"targets:\n  c: {{kind: command, shell: true, run: '{run}', outputs: [x], env: {{passed: "
        f"[TOKEN]}}}}\n"
    )
    done = place.build()
    assert done.ran == ["c"]
    assert done.end["seconds"] < 60
    assert os.path.exists(place.folder / "build/c/x")
    assert place.run("log", "c").out.strip() == "********"
