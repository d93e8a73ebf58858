"""A launcher that has Slurm queue a site's jobs and run them: sbatch, squeue, scancel and sinfo.

Slurm's accounting (sacct) is not asked, which many clusters lack: how a job ended lies in its
folder, and what the controller still knows of it says the rest. The commands' output is in formats
that are given here, https://slurm.schedmd.com/squeue.html and sinfo.html.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import BuildError, RecipeError, StepError
from olivebuild.core.processes import python
from olivebuild.executors.launchers.slurm_cluster import (
    FORMAT,
    PartitionNode,
    partition_nodes,
    too_large,
)

PROGRAMS = ("sbatch", "squeue", "scancel", "sinfo", "srun")
OWN = ("partition", "account", "qos", "constraint")
"""Options of sbatch that have a field of their own."""
SET_HERE = frozenset(
    [
        "array",
        "chdir",
        "error",
        "help",
        "input",
        "job-name",
        "no-kill",
        "no-requeue",
        "nodes",
        "ntasks",
        "ntasks-per-node",
        "open-mode",
        "output",
        "parsable",
        "quiet",
        "requeue",
        "signal",
        "test-only",
        "usage",
        "verbose",
        "version",
        "wait",
        "wrap",
    ]
)
"""Options of sbatch that a job can't be run with otherwise."""
TIMEOUT_SECONDS = 40.0
"""For one command. Slurm's own patience with its controller is 10 s a try."""
PATIENCE_SECONDS = 300.0
"""How long the controller may be silent, as when it is restarted, before jobs are given up."""
FRESH_SECONDS = 1.0
"""How long an answer about jobs is good for."""
FORGOTTEN = "Invalid job id"
BUSY = "Requested node configuration is not available"
"""What `sbatch --test-only` says where nodes are down, too."""

QUEUED = frozenset(
    [
        "PENDING",
        "CONFIGURING",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
    ]
)
ENDED = frozenset(
    ["CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "REVOKED"]
)
LOST = frozenset(["BOOT_FAIL", "NODE_FAIL", "PREEMPTED"])
"""The states of https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES; a job in any other
one runs.
"""


class Known(NamedTuple):
    """What the controller knows of a job."""

    state: str
    reason: str

    @property
    def job_state(self) -> JobState:
        if self.state in QUEUED:
            return JobState.QUEUED
        # The first node was lost: the shell that ran the job is gone.
        launch_failed = self.state == "FAILED" and self.reason == "JobLaunchFailure"
        if self.state in LOST or launch_failed:
            return JobState.LOST
        return JobState.ENDED if self.state in ENDED else JobState.RUNNING

    def __str__(self) -> str:
        silent = self.reason in ("", "None")
        return self.state if silent else f"{self.state} ({self.reason})"


class SlurmLauncher:
    def __init__(self, options: Mapping[str, str], root: Path) -> None:
        self._root = root
        self._image = options.get("image", "")
        self._words = _words({k: v for k, v in options.items() if k != "image"})
        self._partitions = [p for p in options.get("partition", "").split(",") if p]
        self._asked: dict[str, float] = {}
        """When each job was asked about."""
        self._known: dict[str, Known] = {}
        self._known_at = float("-inf")
        self._answered_at = float("-inf")
        if missing := [name for name in PROGRAMS if not shutil.which(name)]:
            raise StepError(
                f"there is no program {missing[0]} here, with which Slurm takes jobs",
                hint="an executor of kind slurm runs on a login node: name it as `host`",
            )

    def refusal(self, needs: Needs) -> str:
        """Return why the cluster can never run a job of these needs; "" where it can."""
        nodes = self._nodes()
        if nodes and (problem := too_large(needs, nodes)):
            return problem
        try:
            self._run(
                ["sbatch", "--test-only", *self._options(needs, needs.nodes)],
                input="#!/bin/sh\ntrue\n",
            )
        except StepError as e:
            # There are such nodes, so some are down.
            return "" if BUSY in e.fact and nodes else e.fact
        return ""

    def submit(self, name: str, command: Sequence[str], folder: Path, needs: Needs) -> str:
        """Queue a command, and return the job's id.

        Of several nodes it takes those that are left, and says so in the log. Raises BuildError.
        """
        count = self._available(needs)
        if count < needs.nodes:
            with open(folder / "log", "a", encoding="utf-8") as log:
                log.write(f"Slurm has {count} of the {needs.nodes} nodes now: it runs on those\n")
        log_file = str(folder / "log").replace("%", "%%")
        words = [
            "sbatch",
            "--parsable",
            f"--job-name=olivebuild-{name}",
            f"--chdir={folder}",
            f"--output={log_file}",
            "--open-mode=append",
            *self._options(needs, count),
        ]
        # One of several nodes waits for its equals when it is queued again; a new job takes fewer.
        words.append("--no-requeue" if needs.nodes > 1 else "--requeue")
        answer = self._run(words, input=self._script(command, needs))
        # "ID" or "ID;CLUSTER".
        ident = answer.strip().rpartition("\n")[2].partition(";")[0]
        if not ident.isdecimal():
            raise StepError(
                f"sbatch answered {answer.strip()[:200]!r}, which is no job's id",
                hint="does a program stand in for sbatch?",
            )
        return ident

    def state(self, ident: str) -> JobState:
        """Return what has become of a job. Raises BuildError where the controller is silent.

        A job that the controller has forgotten (MinJobAge after its end, 5 minutes mostly) is
        GONE: whoever asks has looked at its folder first.
        """
        known = self._look(ident)
        return known.job_state if known else JobState.GONE

    def ending(self, ident: str) -> str:
        """Return what Slurm says of a job that waits or has ended: `PENDING (Resources)`."""
        try:
            known = self._look(ident)
        except BuildError:
            return ""
        return str(known) if known and known.job_state != JobState.RUNNING else ""

    def cancel(self, ident: str) -> None:
        """End a job: SIGTERM to all of its processes, and SIGKILL after Slurm's KillWait."""
        try:
            self._run(["scancel", ident])
        except StepError as e:
            if FORGOTTEN not in e.fact:
                raise
        self._known_at = float("-inf")

    def _look(self, ident: str) -> Known | None:
        now = time.monotonic()
        self._asked[ident] = now
        fresh = now - self._known_at < FRESH_SECONDS and ident in self._known
        if not fresh:
            try:
                self._known = self._ask()
                self._known_at = self._answered_at = now
            except StepError:
                if now - self._answered_at > PATIENCE_SECONDS or ident not in self._known:
                    raise
        return self._known.get(ident)

    def _ask(self) -> dict[str, Known]:
        """Ask about all jobs that were asked about lately, in one call."""
        now = time.monotonic()
        self._asked = {ident: at for ident, at in self._asked.items() if now - at < 60}
        words = [f"--jobs={','.join(self._asked)}", "--states=all", "--format=%i|%T|%r"]
        try:
            answer = self._run(["squeue", "--noheader", *words])
        except StepError as e:
            if FORGOTTEN in e.fact:
                return {}
            raise
        lines = [line.strip().split("|", 2) for line in answer.splitlines()]
        return {parts[0]: Known(parts[1], parts[2]) for parts in lines if len(parts) == 3}

    def _nodes(self) -> list[PartitionNode]:
        words = ["--noheader", "--exact", "--Node", f"--format={FORMAT}"]
        return partition_nodes(self._run(["sinfo", *words]), self._partitions)

    def _available(self, needs: Needs) -> int:
        """Return how many of the nodes that it asks for are up, at least 1."""
        if needs.nodes < 2:
            return 1
        up = {node.node for node in self._nodes() if node.up and not node.lacks(needs)}
        return max(1, min(needs.nodes, len(up)))

    def _options(self, needs: Needs, nodes: int) -> list[str]:
        words = [f"--nodes={nodes}", "--ntasks-per-node=1"]
        if needs.gpus:
            words.append(f"--gres=gpu:{needs.gpus}")
        if needs.cores:
            words.append(f"--cpus-per-task={needs.cores}")
        if needs.memory:
            words.append(f"--mem={-(-needs.memory // 2**20)}M")
        if needs.seconds:
            words.append(f"--time={-(-needs.seconds // 60)}")
        return words + self._words

    def _script(self, command: Sequence[str], needs: Needs) -> str:
        words = list(command)
        if self._image:
            gpus = ["--nv"] if needs.gpus else []
            words = ["apptainer", "exec", *gpus, "--bind", str(self._root), self._image, *words]
        if needs.nodes > 1:
            module = "olivebuild.executors.launchers.slurm_nodes"
            words = python("-m", module, str(needs.nodes), *words)
        return f"#!/bin/sh\nexec {shlex.join(words)}\n"

    def _run(self, words: Sequence[str], input: str = "") -> str:  # noqa: A002
        """Return what a program of Slurm's prints. Raises StepError, with its own words."""
        hint = "its words are Slurm's own; `sinfo` and `squeue` say how the cluster is"
        try:
            done = subprocess.run(
                words,
                input=input,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_SECONDS,
                env=_environment(),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            reason = "has not answered" if isinstance(e, subprocess.TimeoutExpired) else str(e)
            raise StepError(f"{words[0]}: {reason}", hint=hint) from None
        if done.returncode:
            said = [_bare(line, words[0]) for line in done.stderr.splitlines()]
            text = "; ".join(filter(None, said))[:500] or f"ended with {done.returncode}"
            raise StepError(f"{words[0]}: {text}", hint=hint)
        return done.stdout


def open_launcher(options: Mapping[str, str], root: Path) -> SlurmLauncher:
    """Return the launcher. Raises BuildError for an option that is none, or where Slurm lacks."""
    return SlurmLauncher(options, root)


def _words(options: Mapping[str, str]) -> list[str]:
    """Return options by their long names as words of a command line."""
    words = []
    for name, value in sorted(options.items()):
        if name in SET_HERE:
            raise RecipeError(
                f"--{name} of sbatch can't be set: jobs are run with their own",
                hint="`resources:` of a target says what it takes, nodes among them",
            )
        if not value.isprintable() or not name.replace("-", "").isalnum():
            raise RecipeError(
                f"{name}={value!r} is no option of sbatch", hint="write `exclude: node7`"
            )
        if value == "false" or (name in OWN and not value):
            continue
        words.append(f"--{name}" if value == "true" else f"--{name}={value}")
    return words


def _bare(line: str, program: str) -> str:
    """Return a line of a program's stderr without the program's name before it."""
    return line.strip().removeprefix(f"{program}: ").removeprefix("error: ")


def _environment() -> dict[str, str]:
    """Return the environment without what would filter answers, or is of a job around this one."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    dropped = ("SQUEUE_", "SINFO_", "SCANCEL_", "SLURM_", "SLURMD_")
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(dropped)
    }
