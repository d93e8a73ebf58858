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
    files = {"config.json": b"{}", "README.md": b"theirs"}
    one, two = folder_of(tmp_path, 1), folder_of(tmp_path, 2)
    # A repository that began with files, and one that got them later.
    hub.make("me/early", files)
    later = hub.make(NAME, {}).branches["main"]
    later.append(hub_uploads.Commit("e" * 40, "a model", {".gitattributes": b""} | files))
    for name in (NAME, "me/early"):
        with pytest.raises(InputError, match=r"files that are no export's: config\.json") as caught:
            push(one, name)
        assert f"hf:{name}@NAME" in caught.value.hint
        assert push(one, name, "v1").notes == ("the branch v1 is new",)
        assert hub.files(name, "v1") == content(one) | {".gitattributes": b""}
        assert push(two, name, "v1").notes == ()
        assert hub.files(name, "v1") == content(two) | {".gitattributes": b""}
        assert hub.files(name) == {".gitattributes": b""} | files
    # A branch that is there and somebody else's is refused, and nothing is made.
    hub.repositories[NAME].branches["dev"] = list(later)
    with pytest.raises(InputError, match="files that are no export's"):
        push(one, branch="dev")
    hub.make("me/ignoring", {".gitignore": b"*.data"})
    with pytest.raises(InputError, match=r"\.gitignore"):
        push(one, "me/ignoring", "v1")
    assert set(hub.repositories["me/ignoring"].branches) == {"main"}


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


READ, WRITE = ["repo.content.read", "discussion.write"], ["repo.content.read", "repo.write"]


@pytest.mark.parametrize(
    ("kind", "entity", "permissions", "may"),
    [
        ("org", "team", WRITE, True),
        ("org", "Team", WRITE, True),
        ("model", NAME, WRITE, True),
        ("org", "team", READ, False),
        ("user", "me", WRITE, False),
        ("model", "team/other", WRITE, False),
    ],
)
def test_a_fine_grained_token_is_for_what_it_names(
    hub: Hub, *, kind: str, entity: str, permissions: list[str], may: bool
) -> None:
    hub.role = "fineGrained"
    hub.scoped = [{"entity": {"type": kind, "name": entity}, "permissions": permissions}]
    service = pushes.Hub(HubPlace(text=f"hf:{NAME}", repository=NAME))
    if may:
        service.check()
        return
    with pytest.raises(InputError, match="the token is for other places"):
        service.check()


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


@pytest.mark.parametrize(
    ("broken", "attempt"), [(None, 1), (None, 3), (error(504, "late"), 3), (error(524, "late"), 1)]
)
def test_a_commit_whose_answer_was_lost_is_there(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    broken: Answer | None,
    attempt: int,
) -> None:
    hub.fault = times(attempt - 1, "/commit/", BUSY)
    one, handler = folder_of(tmp_path, 1), hub_uploads.Handler.commit

    def commit(self: hub_uploads.Handler, *arguments: Any) -> Answer:
        answer = handler(self, *arguments)
        if answer[0] == 200:
            # It is taken, and the connection breaks, or somebody between gives up.
            if broken is None:
                raise ConnectionError
            return broken
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
        assert "it has made" not in caught.value.hint
    # What was made for it, and is left, is said.
    hub.fault = times(9, "/commit/", error(403, "no"))
    for branch, left in (("main", "me/new"), ("v1", "the branch v1")):
        with pytest.raises(InputError) as caught:
            push(two, "me/new", branch)
        assert f"it has made {left} there, which stays" in caught.value.hint
        assert hub.files("me/new", branch) == {".gitattributes": b""}
    hub.fault = None
    push(two, "me/new", "v1")
    assert hub.files("me/new", "v1") == content(two) | {".gitattributes": b""}


def test_an_export_that_goes_meanwhile_is_an_error(hub: Hub, tmp_path: Path) -> None:
    one, two = folder_of(tmp_path, 1), folder_of(tmp_path, 2)
    push(one)

    def fault(method: str, path: str) -> Answer | None:
        if "/preupload" in path:
            for file in two.iterdir():
                file.unlink()
        return None

    hub.fault = fault
    with pytest.raises(BuildError, match="was deleted while it was pushed"):
        push(two)
    assert hub.files(NAME) == content(one) | {".gitattributes": b""}
    for path in (one / "only1.txt", one / manifest.NAME):
        path.unlink()
        with pytest.raises(InputError, match=r"not what its manifest says|this is no export"):
            push(one)


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
