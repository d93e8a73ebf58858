"""Pushes by huggingface_hub itself, to a hub on loopback that speaks its protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from olivebuild.core.errors import BuildError, InputError
from olivebuild.exporters import manifest
from olivebuild.exporters.manifest import ExportManifest
from olivebuild.exporters.push import hub as pushes
from olivebuild.exporters.push.place import HubPlace
from olivebuild.exporters.push.records import Export, Pushed
from tests.support import hub_uploads
from tests.support.hub_uploads import TOKEN, Answer, Hub, error, times

NAME = "team/tone"
# huggingface_hub's own call of httpx.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_uploads.serving() as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        constants = huggingface_hub.constants
        for name, value in (
            ("ENDPOINT", hub.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_DISABLE_PROGRESS_BARS", True),
        ):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(pushes, "WAITS", (0.0, 0.0))
        yield hub


def folder_of(root: Path, version: int, **more: bytes) -> Path:
    """Make an export: weights that the hub keeps by SHA-256, and small files."""
    folder = root / str(version)
    folder.mkdir()
    files = {
        "model.onnx.data": bytes([version]) * 9000,
        "README.md": b"---\nlicense: mit\n---\n# Tone %d\n" % version,
        f"only{version}.txt": b"x",
        **more,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    contents = ExportManifest(
        target="m",
        kind="onnx",
        digest=str(version) * 32,
        version="1",
        files=tuple(manifest.files_of(folder, {})),
    )
    (folder / manifest.NAME).write_text(contents.to_text())
    return folder


def push(folder: Path, name: str = NAME, branch: str = "main", *, public: bool = False) -> Pushed:
    place = HubPlace(text=f"hf:{name}", repository=name, branch=branch, public=public)
    service = pushes.Hub(place)
    service.check()
    export = Export(folder=str(folder), target="m", digest=folder.name * 32, version="1")
    return service.push(export)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_repository_is_private_and_said_to_be(hub: Hub, tmp_path: Path) -> None:
    one = folder_of(tmp_path, 1)
    done = push(one)
    commit = hub.repositories[NAME].branches["main"][-1]
    assert done.text == f"hf:{NAME}@{commit.oid[:12]}"
    assert done.url.startswith(hub.url)
    assert done.notes == (f"{NAME} is new, and private (--public makes a new one public)",)
    assert commit.summary == "m 111111111111"
    assert commit.files == content(one) | {".gitattributes": b""}
    assert hub.repositories[NAME].private
    assert push(one, "me/open", public=True).notes == ("me/open is new, and public",)
    assert not hub.repositories["me/open"].private


def test_the_next_version_takes_the_place_of_the_last(hub: Hub, tmp_path: Path) -> None:
    one, two = folder_of(tmp_path, 1), folder_of(tmp_path, 2)
    push(one)
    hub.files(NAME)["notes.txt"] = b"somebody's own"
    assert push(two).notes == ()
    assert hub.files(NAME) == content(two) | {".gitattributes": b"", "notes.txt": b"somebody's own"}
    received, commits = hub.received, len(hub.repositories[NAME].branches["main"])
    # The same again is there already; what was edited there is put right, and said.
    assert not push(two).new
    assert len(hub.repositories[NAME].branches["main"]) == commits
    hub.files(NAME)["README.md"] = b"---\nlicense: mit\n---\nmine"
    (note,) = push(two).notes
    assert "README.md was edited there" in note
    assert hub.files(NAME)["README.md"] == (two / "README.md").read_bytes()
    assert hub.received == received


def test_a_branch_of_its_own(hub: Hub, tmp_path: Path) -> None:
    hub.make(NAME, {"config.json": b"{}"})
    with pytest.raises(InputError, match=r"files that are no export's: config\.json") as caught:
        push(folder_of(tmp_path, 1))
    assert f"{NAME}@NAME" in caught.value.hint
    hub.repositories[NAME].branches["main"][-1].files.clear()
    done = push(tmp_path / "1", branch="v1")
    assert done.notes == ("the branch v1 is new",)
    assert hub.files(NAME) == {}
    assert set(hub.files(NAME, "v1")) == set(content(tmp_path / "1"))


def test_what_would_leave_files_out_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.make(NAME, {".gitignore": b"*.data"})
    with pytest.raises(InputError, match=r"\.gitignore"):
        push(folder_of(tmp_path, 1))


@pytest.mark.parametrize(
    ("role", "name", "token", "why"),
    [
        ("read", NAME, TOKEN, "may read only"),
        ("write", "others/tone", TOKEN, "the token is me's, who is not others"),
        ("write", NAME, "hf_wrong", "does not know the token"),
        ("write", NAME, "", "nobody is signed in"),
    ],
)
def test_who_may_not_push_is_told_before_anything(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, *, role: str, name: str, token: str, why: str
) -> None:
    hub.role = role
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token or None)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=why) as caught:
        pushes.Hub(HubPlace(text=f"hf:{name}", repository=name)).check()
    assert TOKEN not in f"{caught.value.fact} {caught.value.hint}"
    assert hub.repositories == {}


BUSY = error(503, "busy")


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        ("PUT /lfs", BUSY),
        ("/preupload", BUSY),
        ("/commit/", BUSY),
        ("/commit/", None),
        ("whoami", BUSY),
        ("/tree/", None),
    ],
)
def test_what_passes_is_tried_again(
    hub: Hub, tmp_path: Path, part: str, answer: Answer | None
) -> None:
    hub.fault = times(1, part, answer)
    one = folder_of(tmp_path, 1)
    push(one)
    assert hub.files(NAME) == content(one) | {".gitattributes": b""}
    assert len(hub.repositories[NAME].branches["main"]) == 2


def test_a_commit_whose_answer_was_lost_is_there(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, handler = folder_of(tmp_path, 1), hub_uploads.Handler.commit

    def commit(self: hub_uploads.Handler, *arguments: Any) -> Answer:
        answer = handler(self, *arguments)
        if answer[0] == 200:
            # It is taken, and the connection breaks.
            raise ConnectionError
        return answer

    monkeypatch.setattr(hub_uploads.Handler, "commit", commit)
    assert push(one).new
    assert hub.files(NAME) == content(one) | {".gitattributes": b""}
    assert len(hub.repositories[NAME].branches["main"]) == 2


def test_who_pushes_meanwhile_is_not_undone(hub: Hub, tmp_path: Path) -> None:
    one, two = folder_of(tmp_path, 1), folder_of(tmp_path, 2)
    push(one)

    def meanwhile(method: str, path: str) -> Answer | None:
        if "/commit/" in path:
            branch = hub.repositories[NAME].branches["main"]
            files = branch[-1].files | {"other.txt": b"other"}
            branch.append(hub_uploads.Commit("f" * 40, "other", files))
        return None

    hub.fault = meanwhile
    with pytest.raises(BuildError, match="was changed meanwhile"):
        push(two)
    assert hub.files(NAME) == content(one) | {".gitattributes": b"", "other.txt": b"other"}


def test_a_push_that_fails_leaves_what_was_there(hub: Hub, tmp_path: Path) -> None:
    one, two = folder_of(tmp_path, 1), folder_of(tmp_path, 2)
    push(one)
    for answer, why in ((BUSY, "503"), (error(403, "no"), "the token may not do that")):
        hub.fault = times(9, "/commit/", answer)
        with pytest.raises(InputError, match=why) as caught:
            push(two)
        assert TOKEN not in f"{caught.value.fact} {caught.value.hint}"
        assert hub.files(NAME) == content(one) | {".gitattributes": b""}


def test_a_hub_that_keeps_something_else_is_an_error(hub: Hub, tmp_path: Path) -> None:
    def fault(method: str, path: str) -> Answer | None:
        if "/tree/" in path and len(hub.repositories[NAME].branches["main"]) == 2:
            hub.files(NAME).pop("model.onnx.data", None)
        return None

    hub.fault = fault
    with pytest.raises(BuildError, match=r"has not taken model\.onnx\.data as it was pushed"):
        push(folder_of(tmp_path, 1))


def test_files_come_by_xet(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    rows = json.dumps([{"row": number} for number in range(9000)]).encode()
    one = folder_of(tmp_path, 1, rows=rows)
    push(one)
    assert hub.files(NAME) == content(one) | {".gitattributes": b""}
    assert hub.requests("/xet/v1/xorbs")
    # What compresses was compressed.
    assert 0 < hub.storage.received < len(rows)
    assert not hub.requests("PUT /lfs")
