"""How fast a model answers on this machine, what memory it takes, and how large it is on disk.

Each model runs in a process of its own, so that its peak memory is its own; one after the other, so that two large ones need
not fit at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from olivebuild import digest
from olivebuild.errors import StepError
from olivebuild.executor import ActionInput
from olivebuild.step import Fields, Result, Step
from olivebuild.worker import Job


class LatencyFields(Fields):
    prompt_tokens: int
    new_tokens: int
    rounds: int


class Latency(Step):
    kind = "benchmark-latency"
    fields = LatencyFields
    exclusive = True
    gpu = True
    machine = True

    def libraries(self, fields: LatencyFields) -> tuple[str, ...]:
        return ("torch", "transformers", "onnxruntime-genai")

    def run(self, job: Job) -> None:
        fields = job.fields(LatencyFields)
        roles = job.roles("model")
        result = []
        for i, role in enumerate(roles):
            job.progress("measuring", i, len(roles))
            result.append(_measure(job.input(role), fields))
        job.progress("measuring", len(roles), len(roles))
        (job.out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        job.result = Result(metrics={"models": result})


def _measure(model: ActionInput, fields: LatencyFields) -> dict[str, Any]:
    folder = Path(model.folder)
    settings = {**fields.model_dump(), "trust_remote_code": model.trust_remote_code}
    command = [sys.executable, "-m", "olivebuild.steps._stopwatch", str(folder), json.dumps(settings)]
    # It shares our standard input, the pipe to the build: when that closes, it ends as we do.
    done = subprocess.run(command, stdin=0, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise StepError(f"{folder.name} could not be measured", hint="the log has the whole story")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured | {"size": sum(p.stat().st_size for p in digest.files_below(folder))}


STEP = Latency()
