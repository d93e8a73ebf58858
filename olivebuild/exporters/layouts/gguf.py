"""GGUF for llama.cpp and Ollama: one file with weights and tokenizer, and a Modelfile.

A process writes the file (ml/gguf). The Modelfile is what Ollama makes a model of:
https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from olivebuild.core.errors import BuildError, InputError, RecipeError, StepError
from olivebuild.core.fs.small_files import parse_json
from olivebuild.core.processes import python
from olivebuild.exporters.layouts.names import TYPES
from olivebuild.exporters.layouts.origin import Origin, Written
from olivebuild.exporters.manifest import sha256_of
from olivebuild.formats.gguf.architectures import check_model
from olivebuild.ui.report.render.markdown import text

KINDS = frozenset(("merged", "model"))
OPTION = "quantization"
CONVERTER = "olivebuild.ml.gguf.convert"
MODELFILE = "Modelfile"


def write(origin: Origin, out: Path) -> Written:
    """Raises BuildError."""
    kind = origin.options.get(OPTION, TYPES[0])
    if kind not in TYPES:
        fact = f"GGUF files are not written in {kind}"
        raise RecipeError(fact, where=f"--{OPTION}", hint=f"write one of {', '.join(TYPES)}")
    check_model(origin.folder)
    name = re.sub(r"[^\w.-]", "-", f"{origin.name}-{kind.upper()}.gguf")
    answer = _converted(origin, out / name, kind)
    _check_unchanged(origin)
    notes = [str(note) for note in answer["notes"]]
    modelfile, missing = _modelfile(name, answer)
    (out / MODELFILE).write_text(modelfile, "utf-8")
    target = origin.lineage.target
    told = f"`{name}` holds {text(target)} in GGUF, its matrices in {kind.upper()}"
    if kind == "q4_0":
        told += " (in Q8_0 what scores the tokens)"
    figures = f"figures on the card are those of {target} as it was built, not of the GGUF file"
    lines = [*notes, *([missing] if missing else [])]
    return Written(
        runs={name: tuple((str(digest), int(size)) for digest, size in answer["runs"])},
        notes=(figures, *lines),
        told="\n".join([f"{told}.", "", *(f"- {text(line)}" for line in (figures, *lines))]),
        library="gguf",
    )


def _converted(origin: Origin, file: Path, kind: str) -> dict[str, Any]:
    """Return what the process says that has written the file. Raises BuildError."""
    target = origin.lineage.target
    settings = {
        "folder": str(origin.folder),
        "out": str(file),
        "type": kind,
        "name": origin.name,
    }
    log = origin.project.workspace.log_file(f"{target}.gguf")
    with open(log, "wb") as stderr:
        done = subprocess.run(
            python("-m", CONVERTER, json.dumps(settings)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=False,
        )
    try:
        answer = parse_json(done.stdout.decode("utf-8"))
    except ValueError:
        fact = f"the process that writes the GGUF file ended with code {done.returncode}"
        hint = f"{log} has the whole story; perhaps there was too little memory"
        raise StepError(fact, hint=hint, target=target) from None
    if answer["event"] == "error":
        raise BuildError.from_json(answer, target)
    return dict(answer)


def _check_unchanged(origin: Origin) -> None:
    """Raise InputError where a file of the target is not what its lineage says."""
    for file in origin.lineage.files:
        path = origin.folder / file.name
        if not path.is_file() or sha256_of(path) != file.sha256:
            fact = f"{file.name} changed while it was exported"
            raise InputError(fact, where=str(origin.folder), hint="export again")


def _modelfile(name: str, answer: dict[str, Any]) -> tuple[str, str]:
    """Return Ollama's Modelfile, and what it can't say; "" where nothing is missing."""
    lines = [f"FROM ./{name}"]
    missing = ""
    template = answer["template"]
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    if template is None and answer["is_chat"]:
        missing = (
            f"the chat template is more than turns: {MODELFILE} has none, and Ollama takes what it "
            "finds in the GGUF file"
        )
    elif template is None:
        missing = f"the model has no chat template: {MODELFILE} has none"
    elif not answer["has_system"]:
        missing = f"{MODELFILE} leaves system messages out, which have no turn of their own"
    lines += [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in answer["ends"]]
    if answer["is_limited"]:
        lines.append(f"PARAMETER num_ctx {answer['context']}")
    # Benchmarks take the likeliest token.
    lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n", missing
