"""Who may ask."""

from __future__ import annotations

import pytest

from olivebuild.server.errors import ApiError
from olivebuild.server.guard import (
    MOST_BYTES,
    Guard,
    check_kind,
    check_size,
    is_loopback,
)

LOCAL = Guard(key="", is_local=True)


def status(guard: Guard, **headers: str) -> int:
    """Return the status that a request with these headers gets."""
    try:
        guard.check({name.replace("_", "-"): value for name, value in headers.items()})
    except ApiError as e:
        return e.status
    return 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST.:80", "[::1]:8000", "127.9.0.1"]
)
def test_this_machine_is_asked_by_its_own_names(host: str) -> None:
    assert status(LOCAL, host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "evil.example@127.0.0.1",
        "127.0.0.1/evil",
        "[::1",
        "192.168.0.7",
        "0.0.0.0:8000",
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    assert status(LOCAL, host=host) == 403


def test_a_page_may_ask_where_it_came_from_alone() -> None:
    assert status(LOCAL, host="localhost:1", origin="http://localhost:1") == 200
    for origin in ("null", "http://localhost:2", "https://localhost:1", "http://evil.example", ""):
        assert status(LOCAL, host="localhost:1", origin=origin) == 403
    assert status(LOCAL, host="localhost", sec_fetch_site="cross-site") == 403
    assert status(LOCAL, host="localhost", sec_fetch_site="same-site") == 403
    assert status(LOCAL, host="localhost", sec_fetch_site="none") == 200


def test_a_key_is_asked_for_where_there_is_one() -> None:
    guard = Guard(key="sesame", is_local=False)
    assert status(guard, host="box.example", authorization="Bearer sesame") == 200
    assert status(guard, host="box.example", authorization="bearer  sesame ") == 200
    for wrong in ("", "sesame", "Bearer", "Bearer ", "Bearer sesam", "Basic sesame", "Bearer é"):
        assert status(guard, host="box.example", authorization=wrong) == 401
    # With a key, a page of another site still may not ask.
    headers = {"authorization": "Bearer sesame", "origin": "http://evil.example"}
    assert status(guard, host="box.example", **headers) == 403


def test_bodies_are_json_and_of_bounded_size() -> None:
    check_kind({"content-type": "application/json; charset=utf-8"})
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        with pytest.raises(ApiError):
            check_kind({"content-type": kind})
    check_size({"content-length": str(MOST_BYTES)})
    for length in (str(MOST_BYTES + 1), "9" * 5000):
        with pytest.raises(ApiError):
            check_size({"content-length": length})


def test_addresses_of_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "box", "", "fe80::1%eth0")))
