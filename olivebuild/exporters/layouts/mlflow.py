"""MLflow's layout: `MLmodel`, what the model needs, and its files (formats/mlflow has others).

    merged   the flavours transformers and python_function: model/, components/tokenizer/
    onnx     the flavour python_function: model/, and code/ with a loader for onnxruntime-genai

https://mlflow.org/docs/latest/ml/model. mlflow is not needed to write it. Nothing in it depends on
when it was written, so that equal models give equal files.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError
from olivebuild.core.fs.small_files import read_json
from olivebuild.engine.provenance.lineage import DigestedFile
from olivebuild.exporters.layouts import mlflow_genai
from olivebuild.exporters.layouts.origin import Origin, Written, copy
from olivebuild.formats.mlflow.mlmodel import OF_TOKENIZER, TOKENIZER

MLFLOW = "3.1.0"
"""The version whose fields these are; an mlflow of the same or a later one reads them."""
LOADER = "mlflow_genai"
MODEL = "model"
ALSO = ("special_tokens_map.json", "added_tokens.json", "merges.txt", "chat_template.*")
NEEDED = {
    "onnx": ("onnxruntime-genai", "onnxruntime", "numpy"),
    "merged": ("transformers", "torch", "safetensors"),
}
Writer = Callable[[Origin, Path], dict[str, Any]]


def write(origin: Origin, out: Path) -> Written:
    """Raises InputError."""
    kind = origin.lineage.kind

    def place(file: DigestedFile) -> str:
        of_tokenizer = any(fnmatch(file.name, name) for name in (*OF_TOKENIZER, *ALSO))
        return f"{TOKENIZER if kind == 'merged' and of_tokenizer else MODEL}/{file.name}"

    runs = copy(origin, out, place)
    # Both environments have the same: MLflow installs nothing of its own into either.
    needed = [f"mlflow>={MLFLOW}", *map(_pinned, NEEDED[kind])]
    python = platform.python_version()
    environments = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
    flavours = WRITERS[kind](origin, out)
    flavours["python_function"] |= {"env": environments, "python_version": python}
    digest = origin.lineage.digest
    mlmodel = {
        "artifact_path": "model",
        "flavors": flavours,
        "metadata": {"olivebuild": {"target": origin.lineage.target, "digest": digest}},
        "mlflow_version": MLFLOW,
        "model_size_bytes": sum(file.size for file in origin.lineage.files),
        "model_uuid": digest[:32],
        "signature": SIGNATURE,
    }
    _yaml(out / "MLmodel", mlmodel)
    (out / "requirements.txt").write_text("".join(f"{line}\n" for line in needed), "utf-8")
    _yaml(
        out / "python_env.yaml",
        {"python": python, "dependencies": ["-r requirements.txt"]},
    )
    pip = {"pip": needed}
    _yaml(
        out / "conda.yaml",
        {
            "name": "mlflow-env",
            "channels": ["conda-forge"],
            "dependencies": [f"python={python}", "pip", pip],
        },
    )
    return Written(runs=runs)


SIGNATURE = {
    "inputs": json.dumps([{"type": "string", "name": "prompt", "required": True}]),
    "outputs": json.dumps([{"type": "string", "required": True}]),
    "params": json.dumps(
        [{"name": "max_new_tokens", "type": "long", "default": 128, "shape": None}]
    ),
}
"""Prompts in, texts out: https://mlflow.org/docs/latest/ml/model/signatures."""


def _onnx(_origin: Origin, out: Path) -> dict[str, Any]:
    """Return the flavours of a model that onnxruntime-genai runs, and write their loader."""
    (out / "code").mkdir()
    shutil.copyfile(mlflow_genai.__file__, out / f"code/{LOADER}.py")
    return {"python_function": {"loader_module": LOADER, "code": "code", "data": MODEL}}


def _merged(origin: Origin, out: Path) -> dict[str, Any]:
    """Return the flavours of a model that transformers loads."""
    config = _json(out / MODEL / "config.json")
    names = config.get("architectures")
    network = str(names[0]) if isinstance(names, list) and names else ""
    if not network:
        fact = "config.json names no architecture, which MLflow loads a model by"
        raise InputError(fact, where=str(origin.folder), hint="mend the base model's config.json")
    tokenizer = _json(out / TOKENIZER / "tokenizer_config.json")
    dtype = config.get("dtype") or config.get("torch_dtype")
    transformers = {
        "code": None,
        "components": ["tokenizer"],
        "framework": "pt",
        "instance_type": "TextGenerationPipeline",
        "model_binary": MODEL,
        "pipeline_model_type": network,
        "source_model_name": origin.name,
        "task": "text-generation",
        "tokenizer_type": str(tokenizer.get("tokenizer_class") or "PreTrainedTokenizerFast"),
        "transformers_version": _pinned("transformers").partition("==")[2],
    }
    if dtype:
        transformers["torch_dtype"] = f"torch.{dtype}"
    return {
        "python_function": {"loader_module": "mlflow.transformers"},
        "transformers": transformers,
    }


WRITERS: Mapping[str, Writer] = {"onnx": _onnx, "merged": _merged}
"""Kind of a target -> what writes and returns its flavours."""


def _json(file: Path) -> dict[str, Any]:
    try:
        read = read_json(file)
    except (OSError, ValueError) as e:
        fact = f"{file.name} can't be read: {e}"
        raise InputError(fact, hint="build the target again") from None
    return read if isinstance(read, dict) else {}


def _pinned(name: str) -> str:
    """Return a requirement: the version that is installed here, where one is."""
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return name


def _yaml(file: Path, data: Mapping[str, Any]) -> None:
    import yaml

    file.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
