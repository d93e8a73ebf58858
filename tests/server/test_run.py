"""A server's socket."""

from __future__ import annotations

import socket

import pytest

from olivebuild.core.errors import InputError
from olivebuild.server.run import listen, take_connections, url_of


def test_an_address_is_taken_and_told() -> None:
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert url_of(bound) == f"http://127.0.0.1:{port}/v1"
        # Nobody is kept waiting by it yet.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        take_connections(bound)
        with pytest.raises(InputError, match="in use"), listen("127.0.0.1", port):
            pass
        socket.create_connection(("127.0.0.1", port), 5).close()


def test_the_first_of_two_that_wait_for_their_builds_gets_the_address() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        try:
            second = listen("127.0.0.1", port)
        except InputError:
            # Some systems know it at once.
            return
        with second:
            take_connections(first)
            with pytest.raises(InputError, match="in use"):
                take_connections(second)


def test_an_address_of_another_machine_is_none() -> None:
    # Of the net for documentation, RFC 5737.
    with pytest.raises(InputError, match="not to be had"), listen("192.0.2.1", 0):
        pass


def test_an_address_of_the_newer_kind_stands_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        bound = listen("::1", 0)
    except InputError:
        pytest.skip("needs IPv6")
    with bound:
        assert url_of(bound).startswith("http://[::1]:")
