"""init, doctor and schema.

A process of its own imports the heavy libraries that doctor asks.
"""

from __future__ import annotations

import json
import platform
import subprocess
from typing import Any

import click

from olivebuild import __version__
from olivebuild.cli.options import (
    JSON,
    recipe_location,
    recipe_options,
)
from olivebuild.core import host, text
from olivebuild.core.host import installed
from olivebuild.core.processes import python
from olivebuild.planner.project import cache_folder

NEEDS = {
    "model (gguf, pypi)": ("torch", "transformers", "gguf"),
    "model (hf)": ("huggingface_hub",),
    "dataset": ("pyarrow",),
    "adapter": ("torch", "transformers", "peft", "safetensors"),
    "merged": ("torch", "transformers", "peft", "safetensors"),
    "onnx": ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers"),
    "benchmark": ("torch", "transformers", "onnxruntime-genai", "scikit-learn"),
    "command": (),
}
_PROVIDERS = """
import json, onnxruntime_genai as og
names = ("cuda", "dml", "openvino", "qnn", "webgpu")
print(json.dumps([n for n in names if getattr(og, f"is_{n}_available")()]))
"""


def examine() -> dict[str, Any]:
    """Return the facts of `doctor --json`."""
    libraries = {
        name: installed(name)
        for name in sorted(
            {n for needs in NEEDS.values() for n in needs} | {"bitsandbytes", "datasets"}
        )
    }
    kinds = {kind: [n for n in needs if not libraries[n]] for kind, needs in NEEDS.items()}
    facts = host.describe()
    return {
        "olivebuild": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": facts["processor"],
        "cores": int(facts["cores"]),
        "memory_bytes": host.memory_bytes(),
        "gpus": list(host.gpu_names()),
        "providers": _providers() if libraries["onnxruntime-genai"] else [],
        "cache": str(cache_folder()),
        "libraries": libraries,
        "kinds": {
            kind: {"runs": not missing, "missing": missing} for kind, missing in kinds.items()
        },
    }


def _providers() -> list[str]:
    """Return the execution providers of onnxruntime-genai; the CPU is always one."""
    done = subprocess.run(python("-c", _PROVIDERS), capture_output=True, text=True, check=False)
    try:
        return ["cpu", *json.loads(done.stdout)]
    except ValueError:
        return []


def to_text(facts: dict[str, Any]) -> str:
    """Return the facts of `examine` as lines."""
    lines = [
        f"olivebuild  {facts['olivebuild']} on Python {facts['python']}, {facts['system']}",
        f"processor   {facts['processor']}, {facts['cores']} cores, "
        f"{facts['memory_bytes'] / 2**30:.0f} GiB",
        f"GPUs        {', '.join(facts['gpus']) or 'none'}",
        f"providers   {', '.join(facts['providers']) or 'none'} (onnxruntime-genai)",
        f"cache       {facts['cache']}",
        "",
    ]
    lines += [
        f"{name:<18} {version or 'not installed'}" for name, version in facts["libraries"].items()
    ]
    lines.append("")
    for kind, state in facts["kinds"].items():
        runs = "runs here"
        if not state["runs"]:
            runs = f"restores only; missing: {', '.join(state['missing'])}"
        lines.append(f"{kind:<18} {runs}")
    return "\n".join(lines)


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Show what this machine has and what each kind can run here.

    \b
    olivebuild doctor
    """
    facts = examine()
    click.echo(json.dumps(facts, indent=2) if as_json else to_text(facts))


@click.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    \b
    olivebuild schema > olivebuild.recipe.schema.json
    """
    from olivebuild.recipe.schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


@click.command()
@recipe_options
@click.option("--model", required=True, help="A Hugging Face folder, hf:ID, or gguf:FILE.")
@click.option("--data", required=True, help="A jsonl, json, csv, tsv or parquet file.")
@click.option("--force", is_flag=True, help="Overwrite a recipe that is there.")
@click.pass_context
def init(ctx: click.Context, model: str, data: str, force: bool) -> None:
    """Write a recipe for a model and a data file.

    \b
    olivebuild init --model hf:Qwen/Qwen2.5-0.5B-Instruct --data data/rows.jsonl
    """
    from olivebuild.recipe import scaffold

    folder, name = recipe_location(ctx)
    file, notes = scaffold.write_recipe(folder, name, model, data, force)
    for note in notes:
        click.echo(f"note: {text.clean(note)}")
    click.echo(f"wrote {file}; next: olivebuild plan")
