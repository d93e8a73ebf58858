"""What a client is told of a request that is not answered, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INVALID, SERVER = "invalid_request_error", "server_error"
"""Types of errors: the request's, and ours."""


class ApiError(Exception):
    """A request that is not answered, with the HTTP status that says so."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self._message, self._code, self._param = message, code, param

    def to_json(self) -> dict[str, Any]:
        """Return the body of the response."""
        return {
            "error": {
                "message": self._message,
                "type": INVALID if self.status < 500 else SERVER,
                "param": self._param,
                "code": self._code,
            }
        }


class Left(Exception):
    """The client went away before its answer was there."""


def of_event(event: Mapping[str, Any]) -> ApiError:
    """Return the error that the model process says of a request."""
    fact, hint = str(event["fact"]), str(event.get("hint") or "")
    message = f"{fact}; {hint}" if hint else fact
    if event["event"] != "refused":
        return ApiError(500, message, code="failed")
    is_long = event.get("error") == "TooLong"
    return ApiError(400, message, code="context_length_exceeded" if is_long else None)
