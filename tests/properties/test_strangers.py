"""What strangers bring is spoilt for a while, OLIVEBUILD_FUZZ_SECONDS; and what it is to see, the
fuzzer sees.

`python -m tests.fuzzer --minutes 60` does it for longer, and `--case` shows one case again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzzer.cases import Fuzzer, drawn
from tests.fuzzer.mutations import Changes
from tests.fuzzer.sandbox import SECRET, Sandbox, look
from tests.fuzzer.subjects import SUBJECTS
from tests.support.faults import quick_folder

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs /proc and PR_SET_CHILD_SUBREAPER"
)
SECONDS = float(os.environ.get("OLIVEBUILD_FUZZ_SECONDS", "10"))
SEED = int(os.environ.get("OLIVEBUILD_SEED", "0"))


@pytest.mark.timeout(SECONDS * 4 + 600)
def test_nothing_that_strangers_bring_hurts(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that a library gave words to may be one that nobody foresaw: it is told, and is no
    fault.
    """
    with quick_folder() as folder:
        fuzzer = Fuzzer(folder / "sandbox")
        try:
            fuzzer.make()
            found = [
                finding
                for case in drawn(list(SUBJECTS), SEED, SECONDS)
                for finding in fuzzer.run(case)[1]
            ]
        finally:
            fuzzer.close()
    with capsys.disabled():
        print(
            f"\n{fuzzer.inputs} spoilt inputs, {fuzzer.commands} commands",
            *(str(f) for f in found),
            sep="\n",
        )
    assert [f for f in found if f.kind != "unforeseen"] == []
    assert fuzzer.inputs >= min(len(SUBJECTS), SECONDS / 4)


# -- that it sees

HARM = {
    "exec": "import sys; sys.path.insert(0, root); import evil",
    "open": "open(root + '/../outside', 'w')",
    "os.remove": "import os; os.remove(root + '/../there')",
    "subprocess.Popen": "import subprocess, sys; subprocess.run([sys.executable, '-c', '0'])",
    "os.system": "import os; os.system('true')",
    "pickle.find_class": "import pickle; pickle.loads(b'cos\\nsystem\\n.')",
    "ctypes.dlopen": "import ctypes\ntry: ctypes.CDLL(root + '/evil.so')\nexcept OSError: pass",
    "socket.getaddrinfo": (
        "import socket\ntry: socket.getaddrinfo('127.0.0.1', 9)\nexcept OSError: pass"
    ),
}


def test_an_alarm_for_each_harm_and_none_without(tmp_path: Path) -> None:
    root = tmp_path / "sandbox"
    root.mkdir()
    (root / "evil.py").write_text("x = 1\n")
    (tmp_path / "there").write_text("x")
    harmless = (
        "open(root + '/inside', 'w').close(); import json, subprocess, sys; "
        "subprocess.run([sys.executable, '-P', '-c', '0'])"
    )
    start = (
        "import sys\nroot = sys.argv[1]\nfrom tests.fuzzer.server import Alarm\nalarm = "
        "Alarm(root)\nalarm.active = True\n"
    )
    alarms = Path(f"{root}.alarms")
    script = (
        start
        + harmless
        + (
            "\nimport os\nassert not os.path.exists(root + '.alarms'), open(root + "
            "'.alarms').read()\n"
        )
    )
    # A failed import ends no harm: each stands alone, in one process for all.
    script += "".join(
        f"try:\n    exec({code!r})\nexcept ImportError:\n    pass\n" for code in HARM.values()
    )
    subprocess.run(
        [sys.executable, "-c", script, str(root)], check=True, cwd=Path(__file__).parents[2]
    )
    told = alarms.read_text()
    assert [event for event in HARM if event.replace("ctypes.", "") not in told] == []


def test_what_is_changed_outside_is_seen_and_put_back(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    for name in (
        "home/thesis/x",
        "work/model/config.json",
        "work/build/a/x",
        "neighbour/secret.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(SECRET)
    (tmp_path / "work/link").symlink_to("model")
    sandbox.keep()
    before = look(str(tmp_path))
    (tmp_path / "work/build/a/new").write_bytes(b"x" + SECRET)
    assert (sandbox.changed(before), sandbox.published(before)) == ([], ["work/build/a/new"])
    (tmp_path / "home/thesis/x").write_bytes(SECRET)
    (tmp_path / "neighbour/secret.txt").unlink()
    (tmp_path / "work/link").unlink()
    (tmp_path / "work/link").mkdir()
    (tmp_path / "work/model/.tmp").write_text("")
    assert sandbox.changed(before) == [
        "home/thesis/x",
        "neighbour/secret.txt",
        "work/link",
        "work/model/.tmp",
    ]
    sandbox.put_back()
    now = look(str(tmp_path))
    assert {n: (e.mode, e.size) for n, e in now.items()} == {
        n: (e.mode, e.size) for n, e in before.items()
    }
    assert (tmp_path / "work/link").readlink() == Path("model")


@pytest.mark.parametrize(
    ("words", "code", "out", "err", "kind"),
    [
        (
            "plan",
            1,
            "",
            "Traceback (most recent call last):\n  File 'olivebuild/x.py'\nKeyError: 'x'\n",
            "traceback",
        ),
        ("plan", 0, "a\x1b[2Jb", "", "output"),
        ("plan", 0, "a\u202eb", "", "output"),
        ("plan", 0, "", "a\x9bb", "output"),
        ("status --json", 0, '{"a": NaN}', "", "output"),
        ("status", 1, "", "", "output"),
        ("build x", 1, "", "error: x failed: KeyError: 'y'", "unforeseen"),
        ("build x", 1, "", "error: x failed: its process was stopped by SIGSEGV", "unforeseen"),
        ("plan", 0, "fine\n", "note: fine\n", ""),
        ("plan --json", 1, '{"a": 1}', "error: x is missing\n  hint: y", ""),
    ],
)
def test_what_is_said_is_judged(
    tmp_path: Path, words: str, code: int, out: str, err: str, kind: str
) -> None:
    assert [found for found, _ in Fuzzer(tmp_path / "s")._said(words.split(), code, out, err)] == (
        [kind] if kind else []
    )


def test_a_case_is_drawn_from_its_name_alone(tmp_path: Path) -> None:
    """And changes differ, and spoil."""
    seen = []
    for name in ("a", "b"):
        (tmp_path / name / "neighbour").mkdir(parents=True)
        (tmp_path / name / "neighbour/secret.txt").write_text("x")
        texts = []
        for i in range(60):
            file = tmp_path / name / f"{i}.json"
            file.write_text(json.dumps({"a": [1, {"b": "x"}], "c": None}))
            told = Changes(random.Random(i), tmp_path / name, []).change(file)
            texts.append(
                (
                    told.replace(str(tmp_path / name), ""),
                    file.read_bytes().replace(os.fsencode(tmp_path / name), b"")
                    if file.is_file()
                    else b"",
                )
            )
        seen.append(texts)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 40
