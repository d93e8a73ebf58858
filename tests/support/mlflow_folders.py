"""MLflow model folders, made of a Hugging Face folder, in the layouts that are about."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

TRANSFORMERS: dict[str, Any] = {
    "code": None,
    "components": ["tokenizer"],
    "framework": "pt",
    "instance_type": "TextGenerationPipeline",
    "model_binary": "model",
    "pipeline_model_type": "Phi3ForCausalLM",
    "source_model_name": "own/tiny",
    "task": "text-generation",
    "tokenizer_type": "PreTrainedTokenizerFast",
    "torch_dtype": "torch.bfloat16",
}
PIPELINE = {key: value for key, value in TRANSFORMERS.items() if key != "model_binary"}
AZURE: dict[str, Any] = {
    "code": None,
    "hf_config_class": "AutoConfig",
    "hf_pretrained_class": "AutoModelForCausalLM",
    "hf_tokenizer_class": "AutoTokenizer",
    "huggingface_id": "own/tiny",
    "model_data": "data",
    "task_type": "text-generation",
}
PYTHON = {"loader_module": "mlflow.transformers", "python_version": "3.11.9", "env": "conda.yaml"}


def is_tokenizers(name: str) -> bool:
    return name.startswith(("tokenizer", "special_tokens", "chat_template", "added_tokens"))


def write_mlmodel(folder: Path, flavours: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = {"artifact_path": "model", "flavors": flavours, "mlflow_version": "2.14.3"}
    (folder / "MLmodel").write_text(yaml.safe_dump(data))


def transformers(model: Path, folder: Path) -> Path:
    """Write the layout of mlflow from 2.4.1 on."""
    write_mlmodel(folder, {"python_function": PYTHON, "transformers": TRANSFORMERS})
    for file in model.iterdir():
        part = "components/tokenizer" if is_tokenizers(file.name) else "model"
        (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / part / file.name)
    (folder / "conda.yaml").write_text("name: mlflow-env\n")
    return folder


def pipeline(model: Path, folder: Path) -> Path:
    """Write the layout of mlflow 2.3: the whole pipeline, and its tokenizer once more."""
    write_mlmodel(folder, {"python_function": PYTHON, "transformers": PIPELINE})
    shutil.copytree(model, folder / "pipeline")
    (folder / "components/tokenizer").mkdir(parents=True)
    for file in filter(lambda f: is_tokenizers(f.name), model.iterdir()):
        shutil.copyfile(file, folder / "components/tokenizer" / file.name)
    return folder


def azure(model: Path, folder: Path, flavour: str = "hftransformersv2") -> Path:
    """Write the layout of Azure's model catalogue."""
    python = PYTHON | {"loader_module": "azureml.evaluate.mlflow.hftransformers", "data": "data"}
    write_mlmodel(folder, {flavour: AZURE, "python_function": python})
    for file in model.iterdir():
        part = (
            "tokenizer"
            if is_tokenizers(file.name)
            else "config"
            if file.name == "config.json"
            else "model"
        )
        (folder / "data" / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / "data" / part / file.name)
    # The configuration that the weights were saved with stands beside them, too.
    (folder / "data/model/config.json").write_text("{}")
    return folder


LAYOUTS = {
    "transformers": transformers,
    "pipeline": pipeline,
    "hftransformersv2": azure,
    "hftransformers": lambda model, folder: azure(model, folder, "hftransformers"),
}
