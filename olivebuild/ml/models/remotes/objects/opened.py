"""An object store that is open, and what its errors mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from olivebuild.core.errors import InputError, Where, first_line

EXTRAS = {"az": "azure", "azureml": "azure", "azureml-model": "azure", "s3": "s3", "gs": "gcs"}
"""scheme -> the extra that installs what it needs."""
LOGINS = {
    "az": "`az login`, AZURE_CLIENT_ID and its like, or AZURE_STORAGE_CONNECTION_STRING",
    "s3": "`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS",
}
"""scheme -> the usual ways to credentials."""
CONTAINERS = {"az": "container", "s3": "bucket", "gs": "bucket"}


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A container or bucket. `signed`: credentials were there; `text` is the source as written."""

    store: Any = field(repr=False)
    scheme: str
    text: str
    where: Where | None
    signed: bool
    target: str = ""
    identity: str = ""
    """What fixes it besides its objects: the version of a model."""

    def error(self, error: BaseException, name: str = "") -> InputError:
        """Return what an error of the store's means for an object.

        Neither URLs with signatures nor answers of servers are in it.
        """
        fact, hint = self._meaning(error)
        return InputError(f"{name or self.text}: {fact}", where=self.where, hint=hint)

    def _meaning(self, error: BaseException) -> tuple[str, str]:
        kind, status = type(error).__name__, _status(error)
        if kind == "NotFoundError" or status == 404:
            container = CONTAINERS[self.scheme]
            return "it does not exist", f"are the {container} and the path right?"
        if kind in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403):
            if self.signed:
                return (
                    "access is denied to the credentials that were found",
                    f"may they read it? They come from {LOGINS[self.scheme]}",
                )
            return "access is denied, and no credentials were found", LOGINS[self.scheme]
        if kind == "PreconditionError":
            return self.changed()
        return f"it can't be read: {shown(error)}", "is the store reachable? then build again"

    def changed(self) -> tuple[str, str]:
        """Return fact and hint for an object that is another than the pinned one."""
        return (
            "it is not what olivebuild.lock pins: it has changed",
            f"if the change is expected: `olivebuild update {self.target}`",
        )


def _status(error: BaseException) -> int:
    """Return the status in the text of an error, 0 where there is none."""
    match = re.search(r"\b(4\d\d|5\d\d) [A-Z]", str(error).partition("Debug source")[0])
    return int(match[1]) if match else 0


def shown(error: BaseException) -> str:
    """Return what a transport's error says, without answers, URLs and credentials.

    Its text may have a URL with a signature in it, and the body of an answer.
    """
    text = str(error)
    if status := re.search(r"\b([45]\d\d) ([A-Z][A-Za-z ]{2,40})\b", text):
        return f"the server answers {status[1]} {status[2].strip()}"
    for words, fact in (
        ("kind: Timeout", "it takes too long"),
        ("timed out", "it takes too long"),
        ("onnection refused", "nobody answers there"),
        ("dns", "there is no such host"),
        ("ertificate", "the server's certificate is not trusted"),
        ("onnect", "there is no connection"),
        ("decoding response body", "the connection broke off"),
        ("HTTP error", "the connection broke off"),
    ):
        if words in text:
            return fact
    return re.sub(r"\w+://\S+", "...", first_line(error, 120))
