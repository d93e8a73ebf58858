"""Options of `docker run`."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.executors.launchers.docker_run import options_of


@pytest.mark.parametrize(
    ("run_args", "words"),
    [
        ({}, ""),
        ({"shm_size": "8g", "ipc_mode": "host"}, "--shm-size 8g --ipc host"),
        ({"devices": ["/dev/a", "/dev/b"]}, "--device /dev/a --device /dev/b"),
        ({"privileged": True, "read_only": False}, "--privileged"),
        ({"environment": {"A": 1}}, "--env A=1"),
        ({"environment": ["A=1", "B"]}, "--env A=1 --env B"),
        ({"volumes": ["/a:/b:ro"]}, "--volume /a:/b:ro"),
        ({"volumes": {"/a": {"bind": "/b"}}}, "--volume /a:/b:rw"),
        ({"extra_hosts": {"host": "10.0.0.1"}}, "--add-host host:10.0.0.1"),
    ],
)
def test_words(run_args: dict[str, Any], words: str) -> None:
    assert options_of(run_args) == words.split()


@pytest.mark.parametrize(
    ("run_args", "fact"),
    [
        ({"detach": True}, "'detach', which is not handed on"),
        ({"shm_sise": "8g"}, "not handed on"),
        ({"shm_size": ["8g"]}, r"run_args.shm_size is \['8g'\]"),
        ({"devices": "/dev/a"}, "run_args.devices is '/dev/a'"),
        ({"volumes": {"/a": "/b"}}, "run_args.volumes"),
        ({"extra_hosts": ["x"]}, "run_args.extra_hosts"),
    ],
)
def test_what_can_not_be_handed_on(run_args: dict[str, Any], fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        options_of(run_args)
