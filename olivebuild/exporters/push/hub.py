"""Pushes to the Hugging Face hub, by huggingface_hub: one commit, on top of what was looked at.

A repository may hold an earlier export, and nothing that is not olivebuild's: what an earlier one
had and this one has not is deleted. A new repository is private.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from olivebuild.core.errors import BuildError, InputError, StoreError, first_line
from olivebuild.core.fs.files import files_below
from olivebuild.exporters import manifest
from olivebuild.exporters.push.place import MAIN, HubPlace
from olivebuild.exporters.push.records import Export, Pushed

STARTERS = (".gitattributes", "README.md")
"""Files of a repository that was made on the hub's page."""
SIGN_IN = "`hf auth login` signs you in, or the variable HF_TOKEN"
WAITS = (0.5, 2.0, 5.0)
"""Seconds before each further attempt."""
AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses that may pass: https://www.rfc-editor.org/rfc/rfc9110#section-15."""
CONFLICT = (409, 412)


class Entry(Struct, frozen=True, kw_only=True):
    """A file of a commit: its size, its SHA-256 or, of a small one, its name in Git."""

    size: int
    sha256: str = ""
    blob: str = ""


class Head(Struct, frozen=True, kw_only=True):
    """A branch as it was looked at: commit and files."""

    commit: str
    files: Mapping[str, Entry]
    private: bool


class Hub:
    """A branch of a model's repository."""

    def __init__(self, place: HubPlace) -> None:
        from huggingface_hub import HfApi

        self._place = place
        self._api = HfApi(library_name="olivebuild")

    def check(self) -> None:
        """Raises InputError."""
        from huggingface_hub import get_token

        place = self._place
        if not get_token():
            raise self._error(f"{place.text}: nobody is signed in to the hub", SIGN_IN)
        who = self._ask(self._api.whoami)
        owner, name = place.repository.split("/")[0], str(who.get("name", ""))
        groups = {str(group.get("name")) for group in who.get("orgs") or ()}
        if owner.lower() not in {n.lower() for n in (name, *groups)}:
            fact = f"{place.text}: the token is {name}'s, who is not {owner} and no member of it"
            raise self._error(fact, f"is the name right? {SIGN_IN}")
        token = (who.get("auth") or {}).get("accessToken") or {}
        if token.get("role") == "read":
            fact = f"{place.text}: the token may read only"
            raise self._error(
                fact, "make one that may write: https://huggingface.co/settings/tokens"
            )
        if head := self._head():
            self._check_files(head)

    def push(self, export: Export) -> Pushed:
        """Raises BuildError."""
        place, folder = self._place, Path(export.folder)
        notes = []
        head = self._head()
        if head is None:
            head, told = self._make()
            notes.append(told)
        elif place.public and head.private:
            notes.append(f"{place.repository} is private, and stays so: its settings are the hub's")
        self._check_files(head)
        if not _differing(head, folder) and manifest.NAME in head.files:
            return self._pushed(head.commit, notes, new=False)
        old, replaced = self._earlier(head)
        notes += replaced
        commit = self._commit(export, head, old)
        now = self._head()
        if now is None or (commit == now.commit and (wrong := _differing(now, folder))):
            fact = f"{place.text} has not taken {wrong[0] if now else 'it'} as it was pushed"
            raise StoreError(fact, hint="push again; what the hub has is on its page")
        return self._pushed(commit, notes, new=True)

    def _pushed(self, commit: str, notes: list[str], *, new: bool) -> Pushed:
        name = self._place.repository
        return Pushed(
            text=f"hf:{name}@{commit[:12]}",
            url=f"{self._api.endpoint}/{name}/tree/{commit}",
            new=new,
            notes=tuple(notes),
        )

    def _head(self) -> Head | None:
        """Return the branch; None where there is no repository or no such branch."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        place = self._place

        def look() -> Head | None:
            try:
                info = self._api.model_info(place.repository, revision=place.branch)
                tree = self._api.list_repo_tree(
                    place.repository, recursive=True, revision=str(info.sha)
                )
                files = {item.path: _entry(item) for item in tree if hasattr(item, "blob_id")}
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
            return Head(commit=str(info.sha), files=files, private=bool(info.private))

        head: Head | None = self._ask(look)
        return head

    def _check_files(self, head: Head) -> None:
        """Raise InputError for a branch with files that no export of olivebuild's has left."""
        place, names = self._place, set(head.files)
        if ".gitignore" in names:
            # The hub leaves out what it names, without a word.
            fact = f"{place.text} has a .gitignore, by which the hub would leave files out"
            raise self._error(fact, "delete it there")
        others = sorted(names - set(STARTERS))
        if others and manifest.NAME not in names:
            fact = f"{place.text} has files that are no export's: {', '.join(others[:3])}"
            raise self._error(fact, f"name a repository or a branch of its own: {place.text}@NAME")

    def _make(self) -> tuple[Head, str]:
        """Make the repository, or the branch; return it, and what is to be said."""
        place, api = self._place, self._api
        try:
            self._ask(lambda: api.model_info(place.repository))
            told = f"the branch {place.branch} is new"
        except _NotThere:
            self._ask(
                lambda: api.create_repo(place.repository, private=not place.public, exist_ok=True)
            )
            how = "public" if place.public else "private (--public makes a new one public)"
            told = f"{place.repository} is new, and {how}"
        if place.branch != MAIN:
            self._ask(
                lambda: api.create_branch(place.repository, branch=place.branch, exist_ok=True)
            )
        head = self._head()
        if head is None:
            raise self._error(f"{place.text} was made, and is not there", "push again")
        return head, told

    def _earlier(self, head: Head) -> tuple[set[str], list[str]]:
        """Return the files of the export that is there, and notes on what was edited since."""
        if manifest.NAME not in head.files:
            return set(), []
        place = self._place
        with tempfile.TemporaryDirectory() as scratch:

            def bring(name: str) -> Path:
                return Path(
                    self._api.hf_hub_download(
                        place.repository, name, revision=head.commit, local_dir=scratch
                    )
                )

            listed = self._ask(lambda: bring(manifest.NAME))
            try:
                old = manifest.read(listed)
            except InputError as e:
                return set(), [f"what an earlier export left stays, as its list can't be read: {e}"]
            files = {file.name: file for file in old.files}
            notes = []
            if "README.md" in files and "README.md" in head.files:
                card = self._ask(lambda: bring("README.md"))
                if manifest.sha256_of(card) != files["README.md"].sha256:
                    notes.append(
                        f"README.md was edited there; the new card takes its place (the old one is "
                        f"in {head.commit[:12]})"
                    )
        return {*files, manifest.NAME}, notes

    def _commit(self, export: Export, head: Head, old: set[str]) -> str:
        """Commit the export on top of a head; return the commit. Raises BuildError."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        place, folder = self._place, Path(export.folder)
        names = [path.relative_to(folder).as_posix() for path in sorted(files_below(folder))]
        gone = sorted((old & set(head.files)) - set(names))
        for wait in (*WAITS, None):
            operations: list[Any] = [
                *(CommitOperationAdd(name, folder / name) for name in names),
                *(CommitOperationDelete(name) for name in gone),
            ]
            try:
                return str(
                    self._api.create_commit(
                        place.repository,
                        operations,
                        commit_message=f"{export.target} {export.digest[:12]}",
                        commit_description=f"Exported by olivebuild {export.version}.",
                        revision=place.branch,
                        parent_commit=head.commit,
                    ).oid
                )
            except Exception as e:  # noqa: BLE001
                # The hub's client passes on errors of whatever transport library it uses.
                status = _status(e)
                if wait is not None and _may_pass(e):
                    time.sleep(wait)
                elif status not in CONFLICT:
                    raise self._failure(e) from None
                # The answer may have been lost, and not the commit.
                now = self._head()
                if now and now.commit != head.commit:
                    if not _differing(now, folder):
                        return now.commit
                    fact = f"{place.text} was changed meanwhile"
                    raise self._error(fact, "look at what is there, and push again") from None
                if status in CONFLICT:
                    raise self._failure(e) from None
        raise AssertionError

    def _ask(self, work: Callable[[], Any]) -> Any:
        """Return what the hub answers, asked again where it may pass. Raises InputError."""
        for wait in (*WAITS, None):
            try:
                return work()
            except BuildError:
                raise
            except Exception as e:  # noqa: BLE001
                # The hub's client passes on errors of whatever transport library it uses.
                if wait is None or not _may_pass(e):
                    raise self._failure(e) from None
                time.sleep(wait)
        raise AssertionError

    def _error(self, fact: str, hint: str) -> InputError:
        return InputError(fact, hint=hint)

    def _failure(self, error: Exception) -> InputError:
        """Return what the hub's client says, as an error; no token is in what it says."""
        from huggingface_hub.errors import RepositoryNotFoundError

        status, text = _status(error), self._place.text
        if isinstance(error, RepositoryNotFoundError):
            return _NotThere(f"{text} is not there", hint=f"is the name right? {SIGN_IN}")
        if status == 401:
            return self._error(f"{text}: the hub does not know the token", SIGN_IN)
        if status == 403:
            fact = f"{text}: the token may not do that: {first_line(error, 200)}"
            return self._error(fact, "make one that may write there, or ask who owns it")
        cause = error.__cause__ or error
        fact = f"{text}: {first_line(cause, 200)}"
        return self._error(fact, "is the hub reachable? Nothing was changed there; push again")


class _NotThere(InputError):
    """There is no such repository, or none that this token may see."""


def _may_pass(error: BaseException) -> bool:
    """Return whether a second attempt may do better: a server that is busy, a connection."""
    if (status := _status(error)) is not None:
        return status in AGAIN
    cause = error.__cause__ or error
    # httpx's errors, those of hf_xet, and the system's; not that the hub is switched off.
    modules = ("httpx", "httpcore", "hf_xet")
    return type(cause).__module__.startswith(modules) or isinstance(
        cause, RuntimeError | TimeoutError
    )


def _status(error: BaseException) -> int | None:
    """Return the status of the answer that an error is of; None where there was no answer."""
    for e in (error, error.__cause__):
        response = getattr(e, "response", None)
        if response is not None:
            return int(response.status_code)
    return None


def _entry(item: Any) -> Entry:
    sha256 = str(item.lfs.sha256) if getattr(item, "lfs", None) else ""
    return Entry(size=int(item.size), sha256=sha256, blob=str(item.blob_id))


def _differing(head: Head, folder: Path) -> list[str]:
    """Return the files of a folder that a commit has not, or not as they are."""
    names = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    return [name for name, path in names.items() if not _is_same(head.files.get(name), path)]


def _is_same(entry: Entry | None, path: Path) -> bool:
    if entry is None or entry.size != path.stat().st_size:
        return False
    if entry.sha256:
        return manifest.sha256_of(path) == entry.sha256
    data = path.read_bytes()
    # As Git names a file: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects.
    named = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return named.hexdigest() == entry.blob
