"""Odd and hostile surroundings: folders with modules in them, pipes and devices as data, names and
figures that no file can hold.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import olivebuild
from olivebuild.core.streams import harmless, json_text
from olivebuild.core.text import clean
from tests.conftest import Place, rows, write_rows
from tests.support.bases import make_base
from tests.support.programs import ALONE
from tests.support.terminal import Terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="such files can't be made there")

DATA = 'targets:\n  tone: {kind: dataset, source: %s, prompt: "{phrase}", completion: " {tone}"}\n'


def test_doctor_imports_nothing_from_the_folder_that_it_is_asked_in(place: Place) -> None:
    for name in ("json", "onnxruntime_genai", "sitecustomize", "platform"):
        (place.folder / f"{name}.py").write_text(
            f"open({str(place.folder / 'ran')!r}, 'w').close()\n"
        )
    # As the installed program does: `python -m` would put the folder first in the path by itself.
    command = [sys.executable, "-P", "-m", "olivebuild", "doctor"]
    done = subprocess.run(
        command,
        cwd=place.folder,
        env=os.environ | {"OLIVEBUILD_CACHE": str(place.cache)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, (place.folder / "ran").exists()) == (0, False)


def test_all_children_are_started_in_one_way() -> None:
    package = Path(olivebuild.__file__).parent
    guilty = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        # The snapshot only compares which interpreter it was.
        if path.name not in ("processes.py", "snapshot.py", *ALONE)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == "executable"
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
    ]
    assert guilty == []


@pytest.mark.parametrize("what", ["data/pipe.jsonl", "folder", "/dev/zero", "data/*.jsonl"])
@pytest.mark.parametrize("verb", ["plan", "build"])
def test_a_pipe_or_a_device_is_no_data(place: Place, what: str, verb: str) -> None:
    write_rows(place.folder / "data/rows.jsonl", rows())
    write_rows(place.folder / "folder/rows.jsonl", rows())
    os.mkfifo(place.folder / "data/pipe.jsonl")
    os.mkfifo(place.folder / "folder/pipe")
    place.recipe.write_text(DATA % json.dumps(what))
    done = place.run(verb)
    if what == "data/*.jsonl":
        # A pattern means files.
        assert done.code == 0
        return
    assert done.code == 1
    assert "olivebuild.yaml:2:" in done.err
    assert (
        "is a device, not a file" if what.startswith("/dev") else "is a named pipe, not a file"
    ) in done.err


@pytest.mark.parametrize(
    "name", ["olivebuild.yaml", "olivebuild.lock", "base/config.json", "rows.jsonl"]
)
def test_no_named_file_is_waited_for(place: Place, name: str) -> None:
    (place.folder / "base").mkdir()
    (place.folder / "base/config.json").write_text('{"model_type": "llama"}')
    place.recipe.write_text("targets:\n  base: {kind: model, source: ./base}\n")
    (place.folder / name).unlink(missing_ok=True)
    os.mkfifo(place.folder / name)
    began = time.monotonic()
    done = place.run(*(["predict", "base", "--in", name] if name == "rows.jsonl" else ["plan"]))
    assert time.monotonic() - began < 30
    assert done.code in (1, 2), done.out
    assert done.err.count("error:") == 1
    assert name.rpartition("/")[2] in done.err or "--in" in done.err
    assert "Traceback" not in done.err


CHAIN = """\
targets:
  rows: {kind: dataset, source: rows.jsonl, prompt: "{phrase}", completion: " {tone}"}
  base: {kind: model, source: ./base}
  adapter: {kind: adapter, source: ./adapter}
  merged: {kind: merged, model: base, adapter: adapter}
  int4: {kind: onnx, model: merged}
  packed: {kind: onnx, source: ./packed}
"""


@pytest.mark.parametrize(
    "name",
    [
        "base/config.json",
        "base/generation_config.json",
        "base/tokenizer_config.json",
        "base/tokenizer.json",
        "base/special_tokens_map.json",
        "base/added_tokens.json",
        "base/chat_template.jinja",
        "base/model.safetensors",
        "adapter/adapter_config.json",
        "adapter/tokenizer_config.json",
        "packed/genai_config.json",
        "packed/config.json",
        "packed/model.onnx",
    ],
)
@pytest.mark.parametrize("of", ["pipe", "link to a device"])
def test_no_file_of_a_named_folder_is_waited_for(place: Place, name: str, of: str) -> None:
    make_base(place.folder / "base")
    for folder in ("adapter", "packed"):
        (place.folder / folder).mkdir()
        (place.folder / folder / "a.json").write_text("{}")
    write_rows(place.folder / "rows.jsonl", rows())
    place.recipe.write_text(CHAIN)
    (place.folder / name).unlink(missing_ok=True)
    if of == "pipe":
        os.mkfifo(place.folder / name)
    else:
        (place.folder / name).symlink_to("/dev/zero")
    command = [sys.executable, "-P", "-m", "olivebuild", "plan", "int4", "packed"]
    done = subprocess.run(
        command,
        cwd=place.folder,
        env=os.environ | {"OLIVEBUILD_CACHE": str(place.cache)},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert name.rpartition("/")[2] in done.stderr
    assert "Traceback" not in done.stderr


def test_json_of_others_is_read_in_one_way() -> None:
    """Which waits for no pipe, and reads no file without end."""
    package = Path(olivebuild.__file__).parent
    direct = re.compile(r"loads\([^\n]*\.read_(text|bytes)\(")
    assert [
        path.name
        for path in package.rglob("*.py")
        if path.name not in ALONE and direct.search(path.read_text("utf-8"))
    ] == []


def test_a_folder_of_the_recipe_whose_name_is_no_text_is_said(place: Place) -> None:
    folder = Path(os.fsdecode(os.fsencode(place.folder) + b"/r\xff"))
    folder.mkdir()
    (folder / "olivebuild.yaml").write_text(
        'targets:\n  a: {kind: command, run: "cp olivebuild.yaml {outputs.x}", outputs: {x: x}}\n'
    )
    for verb in ("plan", "build", "history", "status", "report", "graph", "clean"):
        done = Place(folder, place.cache).run(verb)
        assert done.code == 2, verb
        assert "is not UTF-8 text\n  hint: rename the folder" in done.err


@pytest.mark.parametrize("source", ["data", "data/*.jsonl"])
@pytest.mark.parametrize("verb", ["plan", "build", "status", "why"])
def test_a_name_that_is_no_text_is_said(place: Place, source: str, verb: str) -> None:
    write_rows(place.folder / "data/rows.jsonl", rows())
    Path(os.fsdecode(os.fsencode(place.folder) + b"/data/x\xff.jsonl")).write_text(
        json.dumps(rows()[0]) + "\n"
    )
    place.recipe.write_text(DATA % json.dumps(source))
    done = place.run(verb, *(["tone"] if verb == "why" else []))
    assert done.code == 1
    assert "is not UTF-8 text" in done.err
    assert "olivebuild.yaml:2:" in done.err


def test_an_output_whose_name_is_no_text_is_said(place: Place) -> None:
    program = (
        "import os\nfor name in (b'x', b'x\\xff'):\n    open(os.environb[b'OLIVEBUILD_OUT'] + "
        "b'/' + name, 'w').close()\n"
    )
    (place.folder / "make.py").write_text(program)
    place.recipe.write_text('targets:\n  a: {kind: command, run: "python make.py", outputs: [x]}\n')
    done = place.run()
    assert done.code == 1
    assert "is not UTF-8 text" in done.err


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-1e999", "9" * 400, '1, "\\ud800": 2'])
def test_a_metric_that_is_no_number_fails_the_step_once(place: Place, text: str) -> None:
    (place.folder / "m.json").write_text(f'{{"acc": {text}}}')
    place.recipe.write_text(
        'targets:\n  a: {kind: command, run: "cp m.json {outputs.m}", outputs: {m: m.json}, '
        "metrics: m.json}\n"
    )
    done = place.run("build", "--json")
    assert done.code == 1
    assert [e["event"] for e in done.events].count("started") == 1
    assert "olivebuild.yaml:2:" in done.err
    assert "which is no metric" in done.err


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C"},
    ],
)
def test_a_locale_without_letters_breaks_nothing(place: Place, locale: dict[str, str]) -> None:
    folder = place.folder / "wört"
    folder.mkdir()
    (folder / "gén.py").write_text(
        "import os, sys\nprint(ascii(os.environ['A']))\nopen(sys.argv[1], "
        "'w').write(ascii(sys.argv))\n"
    )
    run = (
        'targets:\n  a: {kind: command, run: "python gén.py {outputs.x}", outputs: {x: ü.txt}, '
        'environment: {A: "😀"}}\n'
    )
    (folder / "olivebuild.yaml").write_text(run, "utf-8")
    there = Place(folder, place.cache, locale)
    assert there.run("plan").code == 0
    assert there.run("build").code == 0, there.run("log", "a").out
    assert (folder / "build/a/ü.txt").read_text().startswith("['g\\xe9n.py'")
    assert there.run("log", "a").out == "'\\U0001f600'\n"
    for verb in ("why a", "status", "history --json", "report --json"):
        done = there.run(*verb.split())
        assert done.code == 0, done.err
        assert "--json" not in verb or json.loads(done.out)
    # The same bytes have the same name everywhere.
    assert Place(folder, place.cache).verdicts() == {"a": "fresh"}
    (folder / "olivebuild.yaml").write_text(run.replace("gén.py", "nö.py"), "utf-8")
    failed = there.run("build")
    assert failed.code == 1
    assert "Error" not in failed.err
    assert ("n\\u00f6.py" if "PYTHONIOENCODING" in locale else "nö.py") in failed.err


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_reason_to_fail(place: Place, closed: str) -> None:
    place.recipe.write_text(
        'targets:\n  a: {kind: command, run: "cat olivebuild.yaml > {outputs.x}", shell: true, '
        "outputs: {x: x}}\n"
    )
    program = f"'{sys.executable}' -m olivebuild"
    environment = os.environ | {"OLIVEBUILD_CACHE": str(place.cache)}
    # Twice: what was remembered is printed by another way.
    for verb, code in (("plan", 0), ("", 0), ("", 0), ("status --json", 0), ("no-such-target", 2)):
        done = subprocess.run(
            ["bash", "-c", f"{program} {verb} {closed}"],
            cwd=place.folder,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (code, False)
    assert place.built("a", "x") == place.recipe.read_bytes()


def test_what_turns_or_steers_is_shown_as_an_escape() -> None:
    odd = "a\x9b2J\u202eb\x1b]0;x\x07\u2066\ufeff\x00\U000e0041"
    assert clean(odd) == "a\\u009b2J\\u202eb\\u001b]0;x\\u0007\\u2066\\ufeff\\u0000\\udb40\\udc41"
    # What languages and signs need stays.
    assert (
        clean("\u0645\u06cc\u200c\u062e 👩\u200d🚀 a\xa0b\u3000c\td\n")
        == "\u0645\u06cc\u200c\u062e 👩\u200d🚀 a b c d\n"
    )
    text = json.dumps({"prediction": odd + "é👩\u200d🚀"}, ensure_ascii=False)
    shown = harmless(text)
    assert json.loads(shown) == json.loads(text)
    assert not set("\x9b\u202e\x07\u2066") & set(shown)
    drawn = "\x1b[1;31merror:\x1b[0m \x1b[?25l\x1b[2K\x1b[1A\r"
    assert harmless(drawn) == drawn


def test_json_in_a_pipe_has_escapes_for_what_steers(place: Place) -> None:
    odd = "x\x9b2J\u202e.jsonl"
    place.recipe.write_text(DATA % json.dumps(odd))
    for verb in ("plan", "build", "why tone", "history"):
        words = verb.split()
        out = place.run(words[0], "--json", *words[1:]).out
        for text in out.splitlines() if verb == "build" else [out]:
            json.loads(text)
        assert out.isascii(), verb
        assert "x\\u009b2J\\u202e.jsonl" in out or verb == "history"
    assert json_text({"é": odd}) == '{"é": "x\\u009b2J\\u202e.jsonl"}'


@pytest.mark.parametrize("verb", ["plan --json", "build", "history --json"])
def test_names_do_not_steer_the_terminal(place: Place, verb: str) -> None:
    odd = "x\x9b2J\u202e\x1b]0;a\x07.jsonl"
    write_rows(place.folder / "data" / odd, rows())
    place.recipe.write_text(DATA % json.dumps(f"data/{odd}", ensure_ascii=True))
    if verb.startswith("history"):
        place.run()
    screen = Terminal(place, 200, 50, *verb.split())
    seen = b""
    while data := screen.read_raw():
        seen += data
    screen.code()
    os.close(screen.fd)
    assert seen
    assert [bad for bad in (b"\xc2\x9b", b"\xe2\x80\xae", b"\x1b]", b"\x07") if bad in seen] == []


@pytest.mark.parametrize("key", ["/", "../outside", "0" * 31, ""])
def test_a_key_that_a_shared_cache_gives_a_recipe_is_no_path(place: Place, key: str) -> None:
    place.recipe.write_text(
        "targets:\n  a: {kind: command, run: 'cp in.txt {outputs.x}', files: [in.txt], outputs: "
        "{x: x}}\n"
    )
    (place.folder / "in.txt").write_text("x")
    assert place.run().code == 0
    (file,) = place.cache.glob("workspaces/*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"keys": {"a": key}}))
    outside = place.folder.parent / "outside.trace"
    outside.write_text("x")
    os.utime(outside, (1, 1))
    (place.folder / "in.txt").write_text("y")
    done = place.run()
    assert (done.code, outside.stat().st_mtime) == (0, 1), done.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize(
    "name",
    [
        "cache/history/*.jsonl",
        "cache/workspaces/*.json",
        "cache/blobs/??/*.trace",
        "work/.olivebuild/last.jsonl",
    ],
)
def test_a_pipe_in_the_place_of_a_file_of_ours_is_not_waited_for(place: Place, name: str) -> None:
    place.recipe.write_text(
        "targets:\n  a: {kind: command, run: 'cp in.txt {outputs.x}', files: [in.txt], outputs: "
        "{x: x}}\n"
    )
    (place.folder / "in.txt").write_text("x")
    assert place.run().code == 0
    (file,) = place.folder.parent.glob(name)
    file.unlink()
    os.mkfifo(file)
    for verb in ("plan", "report"):
        process = place.start(verb)
        out, err = process.communicate(timeout=60)
        assert process.returncode in (0, 1), (verb, out, err)
        assert "Traceback" not in err
        assert (
            name.startswith("cache")
            or f"{file}: error: a pipe or a device stands where olivebuild keeps a file of its own"
            in err
        )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_in_the_place_of_a_blob_or_a_log_is_not_waited_for(place: Place) -> None:
    place.recipe.write_text(
        "targets:\n  a: {kind: command, run: 'cp in.txt {outputs.x}', files: [in.txt], outputs: "
        "{x: x}}\n"
    )
    (place.folder / "in.txt").write_text("x")
    assert place.run().code == 0
    blob = next(p for p in sorted((place.cache / "blobs").glob("*/*")) if not p.suffix)
    log = place.folder / ".olivebuild/logs/a.log"
    for file in (blob, log):
        file.unlink()
        os.mkfifo(file)
    out = place.run("verify")
    assert out.code == 1
    assert f"damaged  blob    {blob.name}: can't be read: not a file" in out.out
    (place.folder / "in.txt").write_text("y")
    built = place.run()
    assert built.code == 1
    assert (
        f"{log}: error: a pipe or a device stands where olivebuild keeps a file of its own"
        in built.err
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits differ")
@pytest.mark.parametrize("most", [6, 9, 11, 12, 13, 16, 24])
def test_a_limit_of_open_files_is_one_error(place: Place, most: int) -> None:
    lines = "".join(
        f'  t{i}: {{kind: command, run: "cp olivebuild.yaml {{outputs.o}}", outputs: {{o: o}}}}\n'
        for i in range(9)
    )
    place.recipe.write_text(f"targets:\n{lines}")
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {most}; "$@"', "sh", sys.executable, "-m", "olivebuild", "-j4"],
        cwd=place.folder,
        env=os.environ | {"OLIVEBUILD_CACHE": str(place.cache)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "open files" in done.stderr, done.stderr
    assert place.run().code == 0
