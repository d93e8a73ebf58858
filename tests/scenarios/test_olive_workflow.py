"""A workflow of Olive as its documents write it: what is trained, and the whole way to int4.

What Olive makes of rows, lengths, steps and splits is written out here by itself, from the rules of
its source (olive/data/component/text_generation.py and olive/passes/pytorch/lora.py of 0.6.2).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Place, rows
from tests.scenarios.test_sequences import job_for, tokens_of

pytestmark = [pytest.mark.scenario, pytest.mark.usefixtures("one_thread")]
LENGTH = 48
TEMPLATE = "### Words: {phrase}\n### They sound:\n{tone}"
DATA = {
    "name": "tones",
    "type": "HuggingfaceContainer",
    "load_dataset_config": {
        "params": {"data_name": "json", "data_files": "data/tones.json", "split": "train"}
    },
    "pre_process_data_config": {
        "params": {
            "dataset_type": "corpus",
            "text_cols": ["phrase", "tone"],
            "text_template": TEMPLATE,
            "corpus_strategy": "join",
            "source_max_len": LENGTH,
            "pad_to_max_len": False,
            "use_attention_mask": False,
        }
    },
}
ARGUMENTS = {
    "seed": 0,
    "data_seed": 42,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "gradient_checkpointing": False,
    "learning_rate": 1e-3,
    "num_train_epochs": 3,
    "max_steps": 4,
    "evaluation_strategy": "steps",
    "eval_steps": 2,
    "group_by_length": True,
    "max_grad_norm": 0.3,
}


def workflow(kind: str, **options: Any) -> dict[str, Any]:
    """The layout that mixes 0.4 to 0.6.2: a system of Azure ML, and providers of the engine."""
    tune = {
        "target_modules": ["o_proj", "qkv_proj"],
        "double_quant": True,
        "lora_r": 4,
        "lora_alpha": 8,
        "train_data_config": "tones",
        "eval_dataset_size": 0.3,
        "torch_dtype": "float32",
        "training_args": ARGUMENTS,
    }
    return {
        "input_model": {
            "type": "PyTorchModel",
            "config": {
                "hf_config": {
                    "model_name": "cache/models/small",
                    "task": "text-generation",
                    "model_loading_args": {"trust_remote_code": True},
                }
            },
        },
        "systems": {
            "cloud": {
                "type": "AzureML",
                "config": {
                    "accelerators": ["cpu"],
                    "hf_token": True,
                    "aml_compute": "Your compute name",
                    "aml_docker_config": {"base_image": "Your image name"},
                },
            }
        },
        "data_configs": [DATA],
        "passes": {
            "tune": {"type": kind, "config": tune | options},
            "merge": {"type": "MergeAdapterWeights"},
            "builder": {"type": "ModelBuilder", "config": {"precision": "int4"}},
        },
        "engine": {
            "host": "cloud",
            "target": "cloud",
            "search_strategy": False,
            "execution_providers": ["CPUExecutionProvider"],
            "cache_dir": "cache",
            "output_dir": "out",
        },
    }


def imported(folder: Path, value: dict[str, Any]) -> Any:
    """The recipe's targets."""
    from olivebuild.recipe.file import load
    from olivebuild.recipe.importers.olive.importer import import_workflow

    file = folder / "olive.json"
    file.write_text(json.dumps(value))
    done = import_workflow(file, out=folder, shown=file.name)
    assert not done.faults
    (folder / "olivebuild.yaml").write_text(done.recipe)
    return load(folder / "olivebuild.yaml").targets


def test_the_blocks_of_a_document_are_those_that_olive_trains_on(
    tmp_path: Path, tiny_model: Path
) -> None:
    from datasets import Dataset

    from olivebuild.ml.training.training_data import load_data

    targets = imported(tmp_path, workflow("LoRA"))
    fields = targets["tune"].fields
    data = {k: v for k, v in targets["tones"].fields.model_dump().items() if k == "text"}
    loaded = load_data(job_for(tmp_path / "job", tiny_model, rows(), **data), fields)
    # Blocks of texts with special tokens around them, without a joiner; the rest is left out.
    texts = [TEMPLATE.format(**row) for row in rows()]
    stream = [i for ids in tokens_of(tiny_model, texts, special=True) for i in ids]
    begins = range(0, len(stream) - LENGTH, LENGTH)
    blocks = Dataset.from_dict({"ids": [stream[b : b + LENGTH] for b in begins]})
    parts = blocks.train_test_split(test_size=0.3, shuffle=True, seed=42)
    for ours, theirs in ((loaded.rows, "train"), (loaded.held_out, "test")):
        assert ours is not None
        assert [row.ids.tolist() for row in ours] == parts[theirs]["ids"]
        assert all(row.counted.all() for row in ours)


def test_a_workflow_runs_from_its_data_to_int4(
    place: Place, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(tiny_model, place.folder / "cache/models/small")
    (place.folder / "data").mkdir(exist_ok=True)
    (place.folder / "data/tones.json").write_text(json.dumps(rows()))
    (place.folder / "olive.json").write_text(json.dumps(workflow("LoRA")))
    done = place.run("run", "--config", "olive.json", "--json", "--executor", "local")
    assert done.code == 0, done.err
    built = place.folder / "build/olive"
    assert (built / "builder/genai_config.json").is_file()
    config = json.loads((built / "tune/adapter_config.json").read_text())
    assert (config["r"], sorted(config["target_modules"])) == (4, ["o_proj", "qkv_proj"])
    assert place.run("run", "--config", "olive.json", "--json", "--executor", "local").ran == []
