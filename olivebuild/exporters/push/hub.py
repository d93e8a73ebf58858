"""Pushes to the Hugging Face hub, by huggingface_hub: one commit, on top of what was looked at.

A repository may hold an earlier export, and nothing that is not olivebuild's: what an earlier one
had and this one has not is deleted. A new repository is private.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from olivebuild.core.errors import BuildError, InputError, StoreError, first_line
from olivebuild.exporters import manifest
from olivebuild.exporters.push.contents import Content, check_there, contents_of
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
WRITE = "repo.write"
"""What a fine-grained token has for the owners and repositories whose files it may write."""


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
        self._new: list[str] = []
        """What was made there for this push."""

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
        if not _may_write(token, place.repository):
            fact = f"{place.text}: the token may read only"
            if token.get("role") != "read":
                fact = f"{place.text}: the token is for other places, and may not write there"
            raise self._error(
                fact, "make one that may write: https://huggingface.co/settings/tokens"
            )
        if head := self._head():
            self._check_files(head)

    def push(self, export: Export) -> Pushed:
        """Raises BuildError."""
        contents = contents_of(Path(export.folder))
        try:
            return self._push(export, contents)
        except BuildError as e:
            if self._new:
                e.hint += f" (it has made {' and '.join(self._new)} there, which stays)"
            raise

    def _push(self, export: Export, contents: dict[str, Content]) -> Pushed:
        place, notes, old = self._place, list[str](), set[str]()
        head = self._head()
        if head is None:
            head, told, old = self._make()
            notes.append(told)
        elif place.public and head.private:
            notes.append(f"{place.repository} is private, and stays so: its settings are the hub's")
        if not old:
            self._check_files(head)
        if not _differing(head, contents):
            return self._pushed(head.commit, notes, new=False)
        if not old:
            old, replaced = self._earlier(head)
            notes += replaced
        commit = self._commit(export, contents, head, old)
        now = self._head()
        if now is None or (commit == now.commit and (wrong := _differing(now, contents))):
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

    def _head(self, revision: str = "") -> Head | None:
        """Return the branch, or a commit; None where there is no such, or no repository."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        place = self._place

        def look() -> Head | None:
            try:
                info = self._api.model_info(place.repository, revision=revision or place.branch)
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
        self._check_ignoring(head)
        others = sorted(names - set(STARTERS))
        if others and manifest.NAME not in names:
            fact = f"{place.text} has files that are no export's: {', '.join(others[:3])}"
            hint = f"name another repository, or a branch that is new: hf:{place.repository}@NAME"
            raise self._error(fact, hint)

    def _check_ignoring(self, head: Head) -> None:
        if ".gitignore" in head.files:
            # The hub leaves out what it names, without a word.
            fact = f"{self._place.text} has a .gitignore, by which the hub would leave files out"
            raise self._error(fact, "delete it there")

    def _make(self) -> tuple[Head, str, set[str]]:
        """Make the repository, or the branch.

        Returns it, what is to be said, and the files that it began with and that are not ours.
        """
        place, api = self._place, self._api
        try:
            self._ask(lambda: api.model_info(place.repository))
            told = f"the branch {place.branch} is new"
        except _NotThere:
            self._ask(
                lambda: api.create_repo(place.repository, private=not place.public, exist_ok=True)
            )
            self._new.append(place.repository)
            how = "public" if place.public else "private (--public makes a new one public)"
            told = f"{place.repository} is new, and {how}"
        first = self._make_branch() if place.branch != MAIN else ""
        head = self._head()
        if head is None:
            raise self._error(f"{place.text} was made, and is not there", "push again")
        old = set(head.files) - {".gitattributes"} if head.commit == first else set[str]()
        return head, told, old

    def _make_branch(self) -> str:
        """Make the branch of the first commit, which rarely has a file; return that commit."""
        place, api = self._place, self._api
        commits = self._ask(lambda: api.list_repo_commits(place.repository, revision=MAIN))
        first = str(commits[-1].commit_id)
        if before := self._head(first):
            self._check_ignoring(before)
        self._ask(
            lambda: api.create_branch(
                place.repository, branch=place.branch, revision=first, exist_ok=True
            )
        )
        self._new.append(f"the branch {place.branch}")
        return first

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

    def _commit(
        self, export: Export, contents: dict[str, Content], head: Head, old: set[str]
    ) -> str:
        """Commit the export on top of a head; return the commit. Raises BuildError."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        place, folder = self._place, Path(export.folder)
        gone = sorted((old & set(head.files)) - set(contents))
        for wait in (*WAITS, None):
            try:
                operations: list[Any] = [
                    *(CommitOperationAdd(name, folder / name) for name in contents),
                    *(CommitOperationDelete(name) for name in gone),
                ]
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
                check_there(folder, contents)
                if _is_refusal(e):
                    raise self._failure(e) from None
                if wait is not None and _may_pass(e):
                    time.sleep(wait)
                # The answer may have been lost, and not the commit.
                now = self._head()
                if now and now.commit != head.commit:
                    if not _differing(now, contents):
                        return now.commit
                    fact = f"{place.text} was changed meanwhile"
                    raise self._error(fact, "look at what is there, and push again") from None
                if wait is None or not _may_pass(e):
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
        return self._error(
            fact, "is the hub reachable? Push again: what it has taken by then is not pushed twice"
        )


class _NotThere(InputError):
    """There is no such repository, or none that this token may see."""


def _may_write(token: Mapping[str, Any], repository: str) -> bool:
    """Return whether a token may write files of a repository; True where it does not say."""
    if token.get("role") != "fineGrained":
        return token.get("role") != "read"
    limits = token.get("fineGrained") or {}
    if not isinstance(scoped := limits.get("scoped"), list) or WRITE in limits.get("global", ()):
        return True
    # A scope without a name is of a sort that is not known here.
    names = {"", repository.lower(), repository.lower().partition("/")[0]}
    return any(
        WRITE in (one.get("permissions") or ())
        and str((one.get("entity") or {}).get("name") or "").lower() in names
        for one in scoped
    )


def _is_refusal(error: BaseException) -> bool:
    """Return whether an answer says for sure that nothing was done."""
    status = _status(error)
    return status is not None and status < 500 and status not in {*AGAIN, *CONFLICT}


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


def _differing(head: Head, contents: Mapping[str, Content]) -> list[str]:
    """Return the files of an export that a commit has not, or not as they are."""
    return [name for name, file in contents.items() if not _is_same(head.files.get(name), file)]


def _is_same(entry: Entry | None, file: Content) -> bool:
    if entry is None or entry.size != file.size:
        return False
    return entry.sha256 == file.sha256 if entry.sha256 else entry.blob == file.blob
