"""Workflows of the importer's tests, in the layouts that releases of Olive had."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from olivebuild.recipe.importers.olive.importer import Import, import_workflow
from olivebuild.recipe.importers.olive.ledger import Entry, Fate
from olivebuild.recipe.importers.positions import shown

ROWS: dict[str, Any] = {
    "name": "letters",
    "type": "HuggingfaceContainer",
    "load_dataset_config": {
        "params": {"data_name": "json", "data_files": "letters.json", "split": "train"}
    },
    "pre_process_data_config": {
        "params": {
            "dataset_type": "corpus",
            "text_template": "Q: {question}\nA: {answer}",
            "corpus_strategy": "join",
            "source_max_len": 64,
        }
    },
}


def flat(**more: Any) -> dict[str, Any]:
    """Return a workflow in the layout of 0.7 and later: a model that is built for the processor."""
    return {
        "input_model": {"type": "HfModel", "model_path": "models/small"},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "passes": {"onnx": {"type": "ModelBuilder", "precision": "int4"}},
        "target": "here",
        "output_dir": "out",
    } | more


def nested(**more: Any) -> dict[str, Any]:
    """Return a workflow in the layout of 0.6.2: a LoRA, merged, and built."""
    return {
        "input_model": {
            "type": "PyTorchModel",
            "config": {"hf_config": {"model_name": "models/small", "task": "text-generation"}},
        },
        "systems": {
            "cloud": {
                "type": "AzureML",
                "config": {
                    "accelerators": [
                        {"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}
                    ],
                    "aml_compute": "<compute>",
                    "aml_docker_config": {
                        "base_image": "registry.example/train:1",
                        "conda_file_path": "conda.yaml",
                    },
                },
            }
        },
        "data_configs": [copy.deepcopy(ROWS)],
        "passes": {
            "tune": {
                "type": "LoRA",
                "config": {
                    "target_modules": ["o_proj"],
                    "lora_r": 4,
                    "train_data_config": "letters",
                    "training_args": {"max_steps": 5, "learning_rate": 0.001},
                },
            },
            "merge": {"type": "MergeAdapterWeights"},
            "onnx": {"type": "ModelBuilder", "config": {"precision": "int4"}},
        },
        "engine": {"host": "cloud", "target": "cloud", "cache_dir": "cache"},
    } | more


def imported(folder: Path, value: object, **options: Any) -> Import:
    """Return the import of a workflow that lies in a folder, for a recipe in the same."""
    file = folder / "olive-config.json"
    file.write_text(json.dumps(value, indent=2))
    done = import_workflow(file, out=folder, shown=file.name, **options)
    assert [e.path for e in done.entries] == list(done.document.leaves())
    return done


def fates(done: Import) -> dict[str, Entry]:
    return {shown(entry.path): entry for entry in done.entries}


def texts(done: Import, fate: Fate) -> list[str]:
    """Return the JSON paths and texts of one list."""
    return [f"{shown(e.path)}: {e.text}" for e in done.entries if e.fate is fate]
