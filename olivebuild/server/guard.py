"""Who may ask: a program of this machine, or who has the key; and never a page of another's.

A web page that somebody has open can send requests to this machine. Its browser names the page's
origin, and a name that was made to point here stands in `Host`.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from olivebuild.server.errors import ApiError

MOST_BYTES = 8 << 20
"""The most of a request's body."""
BODY_SECONDS = 30.0
"""The time in which a body must come."""


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is this machine's own."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What is asked of each request.

    `key`: what it must carry; "" for none. `is_local`: it was sent to this machine by a name of
    this machine alone.
    """

    key: str
    is_local: bool

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise ApiError for a request that is not let in."""
        host = headers.get("host", "")
        if self.is_local and not is_loopback(_name_in(host)):
            fact = f"the Host {host[:100]!r} is no name of this machine"
            raise ApiError(403, f"{fact}: ask 127.0.0.1 or localhost", code="host")
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            fact = f"pages of {origin[:100]!r} may not ask"
            raise ApiError(403, f"{fact}: there is no CORS here", code="origin")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ApiError(403, "pages of other sites may not ask", code="origin")
        if self.key and not self._has_key(headers.get("authorization", "")):
            raise ApiError(
                401,
                "the API key is missing or wrong: send `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _has_key(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        # In a time that does not tell how much of it is right.
        return scheme.lower() == "bearer" and hmac.compare_digest(
            key.strip().encode(), self.key.encode()
        )


def _name_in(host: str) -> str:
    """Return the name in a Host header, without the port; "" where it can't be read."""
    try:
        split = urlsplit(f"//{host}")
        return (split.hostname or "") if split.netloc == host and "@" not in host else ""
    except ValueError:
        return ""


def check_kind(headers: Mapping[str, str]) -> None:
    """Raise ApiError for a body that is not said to be JSON: a form of a page could send others."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the Content-Type must be application/json")


def check_size(headers: Mapping[str, str]) -> None:
    """Raise ApiError for a body that is said to be too large."""
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MOST_BYTES:
        raise too_large()


def too_large() -> ApiError:
    """Return the error for a body that is too large."""
    return ApiError(413, f"a request may have {MOST_BYTES >> 20} MiB", code="too_large")
