"""Options of `docker run` from a recipe's `run_args`.

They have the names of Docker's library for Python, which other tools' configurations use:
https://docker-py.readthedocs.io/en/stable/containers.html#docker.models.containers.ContainerCollection.run
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olivebuild.core.errors import InputError
from olivebuild.core.text import did_you_mean

ONE = {
    "cpu_shares": "--cpu-shares",
    "cpuset_cpus": "--cpuset-cpus",
    "hostname": "--hostname",
    "ipc_mode": "--ipc",
    "mem_limit": "--memory",
    "memswap_limit": "--memory-swap",
    "network": "--network",
    "network_mode": "--network",
    "pid_mode": "--pid",
    "pids_limit": "--pids-limit",
    "platform": "--platform",
    "runtime": "--runtime",
    "shm_size": "--shm-size",
    "user": "--user",
    "userns_mode": "--userns",
}
"""A name -> the option that takes its value."""
MANY = {
    "cap_add": "--cap-add",
    "cap_drop": "--cap-drop",
    "devices": "--device",
    "dns": "--dns",
    "group_add": "--group-add",
    "security_opt": "--security-opt",
}
"""A name -> the option that is written for each value of its list."""
FLAGS = {"privileged": "--privileged", "read_only": "--read-only"}
PAIRS = {"environment": "--env", "labels": "--label", "sysctls": "--sysctl"}
"""A name -> the option of a mapping, or of a list of `NAME=VALUE`."""
KNOWN = (*ONE, *MANY, *FLAGS, *PAIRS, "extra_hosts", "volumes")


def options_of(run_args: Mapping[str, Any]) -> list[str]:
    """Return the words of the command line. Raises InputError for one that can't be handed on."""
    words: list[str] = []
    for name, value in run_args.items():
        if name not in KNOWN:
            raise InputError(
                f"run_args has {name!r}, which is not handed on to docker run",
                hint=did_you_mean(name, KNOWN),
            )
        try:
            words += _words(name, value)
        except (TypeError, AttributeError, KeyError):
            raise InputError(
                f"run_args.{name} is {value!r}",
                hint="write it as Docker's library for Python has it",
            ) from None
    return words


def _words(name: str, value: Any) -> list[str]:
    """Raises TypeError, AttributeError and KeyError for a value of another form."""
    if name in ONE:
        if isinstance(value, dict | list):
            raise TypeError
        return [ONE[name], str(value)]
    if name in FLAGS:
        return [FLAGS[name]] if value else []
    if name in MANY:
        return [word for item in _list(value) for word in (MANY[name], str(item))]
    if name in PAIRS:
        lines = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else _list(value)
        return [word for line in lines for word in (PAIRS[name], str(line))]
    if name == "extra_hosts":
        return [word for host, ip in value.items() for word in ("--add-host", f"{host}:{ip}")]
    return [word for line in _volumes(value) for word in ("--volume", line)]


def _volumes(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{source}:{at['bind']}:{at.get('mode', 'rw')}" for source, at in value.items()]
    return [str(line) for line in _list(value)]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value
