"""Containers of one machine, by Docker's own program.

A container sees the site's folder at its own path, and this olivebuild's code beside the image's
libraries. The program may be podman's, under the name docker.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from olivebuild.api.site import JobState, Needs
from olivebuild.core import code_version, host
from olivebuild.core.errors import InputError, StepError
from olivebuild.core.text import size
from olivebuild.executors.launchers.docker_run import options_of

PROGRAM = "docker"
SLOT = "olivebuild.executors.launchers.slot"
LABEL = "olivebuild-job"
CODE = "/opt/olivebuild-code"
"""Where a container has olivebuild's code."""
INTO_LOG = 'exec "$@" >> "$0" 2>&1'
GRACE_SECONDS = 15
"""From SIGTERM to SIGKILL: the job stops its step, which writes its state."""
KEPT = "24h"
"""How long a container that has ended may be looked at."""
STATES = {
    "created": JobState.QUEUED,
    "running": JobState.RUNNING,
    "restarting": JobState.RUNNING,
    "paused": JobState.RUNNING,
    "removing": JobState.ENDED,
    "exited": JobState.ENDED,
    "dead": JobState.ENDED,
    "initialized": JobState.QUEUED,
    "stopping": JobState.RUNNING,
    "stopped": JobState.ENDED,
}
"""https://docs.docker.com/reference/api/engine/version/v1.41/#operation/ContainerInspect, and what
Podman says besides (https://docs.podman.io/en/latest/markdown/podman-ps.1.html, `status`).
"""
DOCKERFILE = """\
FROM {base}
COPY requirements.txt /tmp/olivebuild-requirements.txt
RUN python -m pip install --no-cache-dir -r /tmp/olivebuild-requirements.txt
"""


class Settings(Struct, frozen=True, kw_only=True):
    """The fields of an executor, as a recipe has them."""

    image: str = ""
    base_image: str = ""
    dockerfile: str = ""
    build_context: str = ""
    build_args: dict[str, Any] = {}
    run_args: dict[str, Any] = {}
    variables: dict[str, str] = {}
    requirements: str = ""
    work_dir: str = ""

    @staticmethod
    def of_options(options: Mapping[str, str]) -> Settings:
        """Raises InputError for a field that is unknown or of no use."""
        if unknown := sorted(options.keys() - set(Settings.__struct_fields__)):
            raise InputError(f"a container has no {unknown[0]!r}", hint="leave it out")
        values: dict[str, Any] = dict(options)
        for name in ("build_args", "run_args", "variables"):
            if name in values:
                values[name] = json.loads(values[name])
        settings = Settings(**values)
        is_built = bool(settings.dockerfile or settings.build_context)
        if not (is_built or settings.image or settings.base_image):
            raise InputError("the executor names no image", hint="`image: NAME`, or a `dockerfile`")
        if settings.base_image and (is_built or settings.image):
            raise InputError(
                "the executor names a base image, and another image to run",
                hint="leave out `base_image`, or name it in the Dockerfile",
            )
        options_of(settings.run_args)
        return settings


class DockerLauncher:
    """The containers of a site."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self._settings, self._root = settings, root
        self._image = ""
        """The image, once it is there."""

    def refusal(self, needs: Needs) -> str:
        """Raises StepError where the daemon does not answer."""
        _docker("version", "--format", "{{.Server.Version}}")
        gpus = len(host.gpu_names())
        if needs.nodes > 1:
            return f"it asks for {needs.nodes} nodes, and a container is on one machine"
        if needs.gpus > gpus:
            return f"it asks for {_gpus(needs.gpus)}, and the machine has {gpus or 'none'}"
        if needs.cores > host.cores():
            return f"it asks for {needs.cores} cores, and the machine has {host.cores()}"
        if (memory := host.memory_bytes()) and needs.memory > memory:
            return f"it asks for {size(needs.memory)} of memory, and the machine has {size(memory)}"
        return ""

    def submit(self, name: str, command: Sequence[str], folder: Path, needs: Needs) -> str:
        """Start a container; make its image before that, where the recipe says what from.

        Raises InputError and StepError.
        """
        image = self._made_image()
        # Not --rm: how it ended is asked for later.
        filters = ("--filter", f"label={LABEL}", "--filter", f"until={KEPT}")
        _docker("container", "prune", "--force", *filters)
        root = str(self._root)
        words = [root, str(needs.gpus), str(needs.seconds), str(folder)]
        slot = ["python", "-P", "-m", SLOT, *words]
        # The agent's own Python is not the container's.
        job = ["/usr/bin/env", "python", *command[1:]]
        into_log = ["sh", "-c", INTO_LOG, str(folder / "log")]
        options = ["--detach", "--init", "--label", f"{LABEL}={name}", *self._options(needs)]
        return _docker("run", *options, image, *into_log, *slot, *job).strip()[:64]

    def _options(self, needs: Needs) -> list[str]:
        """Return what a container sees, and takes. Raises InputError."""
        settings, root = self._settings, str(self._root)
        variables = {
            "PYTHONPATH": CODE,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/tmp",  # noqa: S108 - of the container
            **settings.variables,
        }
        return [
            *("--mount", _mount(root, root)),
            *("--mount", _mount(code_version.ROOT, f"{CODE}/olivebuild") + ",readonly"),
            *(word for name, value in variables.items() for word in ("--env", f"{name}={value}")),
            *_user(settings.run_args),
            *(("--gpus", "all") if needs.gpus else ()),
            *(("--memory", str(needs.memory)) if needs.memory else ()),
            *(("--workdir", settings.work_dir) if settings.work_dir else ()),
            *options_of(settings.run_args),
        ]

    def state(self, ident: str) -> JobState:
        """Raises StepError where the daemon does not answer."""
        about = _inspect(ident)
        return STATES.get(about.get("Status", ""), JobState.LOST) if about else JobState.GONE

    def ending(self, ident: str) -> str:
        about = _inspect(ident)
        if not about:
            return "its container is gone"
        if about.get("OOMKilled"):
            return "its container had no memory left"
        if about.get("Status") == "exited":
            return f"its container ended with exit code {about.get('ExitCode')}"
        return f"its container is {about.get('Status')}"

    def cancel(self, ident: str) -> None:
        if STATES.get(_inspect(ident).get("Status", "")) in (JobState.RUNNING, JobState.QUEUED):
            with contextlib.suppress(StepError):
                _docker("stop", "--time", str(GRACE_SECONDS), ident)

    def _made_image(self) -> str:
        """Return the image, which is made first if it is to be. Raises StepError."""
        settings = self._settings
        if self._image:
            return self._image
        image = settings.image or settings.base_image
        if settings.dockerfile or settings.build_context:
            file = Path(settings.dockerfile or Path(settings.build_context, "Dockerfile"))
            image = self._build(Path(settings.build_context or file.parent), file, settings.image)
        if settings.requirements:
            with tempfile.TemporaryDirectory() as scratch:
                shutil.copyfile(settings.requirements, Path(scratch, "requirements.txt"))
                file = Path(scratch, "Dockerfile")
                file.write_text(DOCKERFILE.format(base=image))
                image = self._build(Path(scratch), file)
        self._image = image
        return image

    def _build(self, context: Path, file: Path, name: str = "") -> str:
        """Build an image; what has not changed comes from Docker's own cache."""
        arguments = [
            word
            for key, value in self._settings.build_args.items()
            for word in ("--build-arg", f"{key}={value}")
        ]
        tag = ("--tag", name) if name else ()
        words = ("--quiet", *tag, "--file", str(file), *arguments, str(context))
        return _docker("build", *words).strip()


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count != 1 else ''}"


def _mount(source: str, target: str) -> str:
    """Raises InputError for a path with a comma, which Docker would read as two."""
    if "," in source:
        raise InputError(f"{source} has a comma in it", hint="name another folder with `root:`")
    return f"type=bind,source={source},target={target}"


def _user(run_args: Mapping[str, Any]) -> list[str]:
    """Return options by which files of a container belong to whom runs the agent."""
    if "user" in run_args or not hasattr(os, "getuid"):
        return []
    return ["--user", f"{os.getuid()}:{os.getgid()}"]


def _inspect(ident: str) -> dict[str, Any]:
    """Return the state of a container; {} where there is none. Raises StepError."""
    try:
        return dict(json.loads(_docker("inspect", "--format", "{{json .State}}", ident)))
    except StepError as e:
        if re.search("no such (object|container)", e.fact, re.IGNORECASE):
            return {}
        raise


def _docker(*words: str) -> str:
    """Return what the program prints. Raises StepError where it fails."""
    try:
        done = subprocess.run(
            [PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as e:
        raise StepError(f"{PROGRAM} can't be run: {e.strerror}", hint="install Docker") from None
    if done.returncode == 0:
        return done.stdout
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    with contextlib.suppress(ValueError):
        lines.remove("See 'docker run --help'.")
    last = lines[-1] if lines else f"exit code {done.returncode}"
    raise StepError(
        f"docker {words[0]}: {last.removeprefix('docker: ')[:300]}",
        hint="does the daemon run, and may you use it? `docker info` says so",
    )


def open_launcher(options: Mapping[str, str], root: Path) -> DockerLauncher:
    """Raises InputError for a field that is unknown or of no use."""
    return DockerLauncher(Settings.of_options(options), root)
