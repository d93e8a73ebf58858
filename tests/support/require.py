"""What tests need from outside: a server, a program or a right that not every machine has.

A test without it is skipped. Where OLIVEBUILD_REQUIRE names it, as in `nox -s full` of CI, the test
fails instead: there a skip would hide that nothing was tested.
"""

from __future__ import annotations

import os

import pytest

KINDS = {
    "azure-ai-ml": "Azure ML's library, too large for the others' tests: pip install azure-ai-ml",
    "azurite": "Azure's blob storage on this machine: npm install -g azurite",
    "chromium": "a browser that opens reports",
    "docker": "a daemon of Docker, or root and dockerd to start one",
    "exfat": "exfatprogs, exfat-fuse and loop devices",
    "g++": "a compiler of C++",
    "gcc": "a compiler of C",
    "git": "git",
    "index": "an index of packages that pip reaches",
    "llama_cpp": "llama.cpp through llama-cpp-python, see tests/support/llama.py",
    "lm_eval": "the language model evaluation harness: pip install lm-eval",
    "mounts": "the right to mount a file system, which root has",
    "npm": "the packages of examples/apps/web, installed globally by npm",
    "ray": "Ray: pip install 'olivebuild[ray]', and the right to make namespaces",
    "sshd": "a server of ssh: openssh-server",
    "slurm": "slurmctld, slurmd and munged: apt-get install slurm-wlm munge",
    "users": "the right to become another user, which root has",
}
"""What OLIVEBUILD_REQUIRE can name, and what each is."""
REQUIRED = frozenset(filter(None, os.environ.get("OLIVEBUILD_REQUIRE", "").split(",")))


def check_names() -> None:
    """Raise UsageError for a name in OLIVEBUILD_REQUIRE that no test asks for."""
    if unknown := sorted(REQUIRED - KINDS.keys()):
        raise pytest.UsageError(
            f"OLIVEBUILD_REQUIRE names {', '.join(unknown)}: it can name {', '.join(KINDS)}"
        )


def require(name: str, available: object, reason: str) -> None:
    """Skip the test that asks unless `available` is true; fail where `name` is required."""
    assert name in KINDS
    if available:
        return
    if name in REQUIRED:
        pytest.fail(f"{reason}, and OLIVEBUILD_REQUIRE names {name}", pytrace=False)
    pytest.skip(reason)
