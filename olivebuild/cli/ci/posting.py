"""Comments on pull requests of GitHub and merge requests of GitLab, by their REST interfaces.

A token goes to the host that the job itself names, and follows no redirect.
https://docs.github.com/en/rest/issues/comments
https://docs.gitlab.com/api/notes/
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from olivebuild.core.errors import InputError, StoreError
from olivebuild.core.fs.small_files import read_json
from olivebuild.ui.pull_request.comment import MARKER

SECONDS = 20.0
PAGES = 10
MOST_BYTES = 16 << 20
"""Of an answer."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow nothing: the headers, and the token in them, would go along."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Service:
    """The REST interface at `url`, asked with `headers`."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise InputError(f"a token is not sent to {url}", hint="the address begins with https:")
        self._url, self._headers = url.rstrip("/"), headers
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, method: str, path: str, data: dict[str, str] | None = None) -> Any:
        """Return the JSON of an answer. Raises StoreError."""
        body = None if data is None else json.dumps(data).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, body, headers, method=method)  # noqa: S310 - checked above
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                return json.loads(answer.read(MOST_BYTES) or b"null")
        except urllib.error.HTTPError as e:
            hint = (
                "may the token write comments there?" if e.code in (401, 403, 404) else "try again"
            )
            raise StoreError(
                f"the service answers {e.code} to {method} {path}", hint=hint
            ) from None
        except (OSError, ValueError) as e:
            raise StoreError(f"the service can't be asked: {e}", hint="try again") from None

    def pages(self, path: str, **query: str) -> list[Any]:
        """Return the items of a list, of all its pages."""
        items: list[Any] = []
        for page in range(1, PAGES + 1):
            words = urlencode({**query, "per_page": "100", "page": str(page)})
            more = self.ask("GET", f"{path}?{words}")
            items += more
            if len(more) < 100:
                break
        return items


def on_github(text: str) -> str:
    """Comment on the pull request whose job has ended; return what was done.

    Which one that is, GitHub says: the event names the commit and the branch, and the pull request
    must stand at that commit. What the job left says nothing of it.
    """
    event = read_json(Path(_variable("GITHUB_EVENT_PATH")))
    run = event.get("workflow_run") or {}
    repository = quote(_variable("GITHUB_REPOSITORY"), safe="/")
    service = Service(
        os.environ.get("GITHUB_API_URL") or "https://api.github.com",
        {
            "Authorization": f"Bearer {_variable('GITHUB_TOKEN')}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    owner = ((run.get("head_repository") or {}).get("owner") or {}).get("login")
    branch, commit = run.get("head_branch"), run.get("head_sha")
    if not (owner and branch and commit):
        raise InputError(
            "this job was not started by the end of another", hint="use it on `workflow_run`"
        )
    pulls = service.pages(f"/repos/{repository}/pulls", state="open", head=f"{owner}:{branch}")
    numbers = [int(pull["number"]) for pull in pulls if pull["head"]["sha"] == commit]
    if not numbers:
        return "no open pull request stands at that commit any more: nothing is said"
    for number in numbers:
        _write(service, f"/repos/{repository}/issues", number, text)
    return f"commented on {', '.join(f'#{number}' for number in numbers)}"


def _write(service: Service, path: str, number: int, text: str) -> None:
    for comment in service.pages(f"{path}/{number}/comments"):
        is_ours = (comment.get("user") or {}).get("type") == "Bot"
        if is_ours and str(comment.get("body", "")).startswith(MARKER):
            service.ask("PATCH", f"{path}/comments/{int(comment['id'])}", {"body": text})
            return
    service.ask("POST", f"{path}/{number}/comments", {"body": text})


def on_gitlab(text: str) -> str:
    """Comment on the merge request that the job is for; return what was done."""
    service = Service(
        _variable("CI_API_V4_URL"), {"PRIVATE-TOKEN": _variable("OLIVEBUILD_GITLAB_TOKEN")}
    )
    project, number = _variable("CI_PROJECT_ID"), _variable("CI_MERGE_REQUEST_IID")
    path = f"/projects/{quote(project, safe='')}/merge_requests/{quote(number, safe='')}/notes"
    me = service.ask("GET", "/user")["id"]
    for note in service.pages(path):
        if note["author"]["id"] == me and str(note["body"]).startswith(MARKER):
            service.ask("PUT", f"{path}/{int(note['id'])}", {"body": text})
            break
    else:
        service.ask("POST", path, {"body": text})
    return f"commented on !{number}"


def _variable(name: str) -> str:
    if value := os.environ.get(name):
        return value
    raise InputError(f"{name} is not set", where="environment", hint="the service's jobs have it")
