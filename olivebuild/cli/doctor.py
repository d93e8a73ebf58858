"""doctor: what a machine has and can run.

A process of its own imports the heavy libraries that are asked.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from typing import Any

import click

from olivebuild import __version__
from olivebuild.cli.options import JSON
from olivebuild.core import host
from olivebuild.core.errors import Problem
from olivebuild.core.host import installed
from olivebuild.core.processes import python
from olivebuild.core.providers import PROVIDERS, overlaps, reason_against
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
_TRY = """
import json, sys
import numpy as np, onnxruntime as ort, onnxruntime_genai as og
from onnx import TensorProto, helper
from olivebuild.core.providers import load_cuda
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "sum", [x], [y])
operators = [helper.make_opsetid("", 17)]
model = helper.make_model(graph, ir_version=9, opset_imports=operators).SerializeToString()
names = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "dml": "DmlExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
name = sys.argv[1]
if name == "cuda":
    load_cuda()
session = ort.InferenceSession(model, providers=[names[name]])
y = session.run(None, {"x": np.ones(1, np.float32)})[0]
there = name == "cpu" or getattr(og, f"is_{name}_available")()
print(json.dumps(bool(there and y[0] == 2 and session.get_providers()[0] == names[name])))
"""
"""Adds two numbers on the provider that it is told; ONNX Runtime falls back to the processor where
it can't load one.
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
    providers = providers_here()
    return {
        "olivebuild": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": facts["processor"],
        "cores": int(facts["cores"]),
        "memory_bytes": host.memory_bytes(),
        "gpus": list(host.gpu_names()),
        "providers": [name for name, problem in providers.items() if problem is None],
        "not_here": {name: problem.fact for name, problem in providers.items() if problem},
        "overlaps": [
            {"packages": list(o.packages), "fact": o.fact, "hint": o.hint} for o in overlaps()
        ],
        "cache": str(cache_folder()),
        "libraries": libraries,
        "kinds": {
            kind: {"runs": not missing, "missing": missing} for kind, missing in kinds.items()
        },
    }


def providers_here() -> dict[str, Problem | None]:
    """Return each provider with the reason why it can't run here; None for one that can.

    What files and the system don't tell is tried out.
    """
    return {name: reason_against(name) or _try_out(name) for name in PROVIDERS}


def _try_out(name: str) -> Problem | None:
    if not installed("onnxruntime-genai"):
        return Problem("onnxruntime-genai is not installed", "pip install 'olivebuild[build]'")
    done = subprocess.run(python("-c", _TRY, name), capture_output=True, text=True, check=False)
    if done.stdout.strip().endswith("true"):
        return None
    library = re.search(r"([\w.+-]+): cannot open shared object file", done.stderr)
    if library:
        hint = "it belongs on the path of libraries, LD_LIBRARY_PATH for example"
        return Problem(f"the library {library[1]} is not there", hint)
    last = next(iter(reversed(done.stderr.strip().splitlines())), "it fell back to the processor")
    return Problem(f"it does not start: {last[:200]}", "the packages of `doctor` may not fit")


def to_text(facts: dict[str, Any]) -> str:
    """Return the facts of `examine` as lines."""
    lines = [
        f"olivebuild  {facts['olivebuild']} on Python {facts['python']}, {facts['system']}",
        f"processor   {facts['processor']}, {facts['cores']} cores, "
        f"{facts['memory_bytes'] / 2**30:.0f} GiB",
        f"GPUs        {', '.join(facts['gpus']) or 'none'}",
        f"providers   {', '.join(facts['providers']) or 'none'} (onnxruntime-genai)",
        *(f"            not {name}: {reason}" for name, reason in facts["not_here"].items()),
        f"cache       {facts['cache']}",
        *(f"warning     {o['fact']}\n            {o['hint']}" for o in facts["overlaps"]),
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
    from olivebuild.ui import plain

    facts = examine()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        plain.echo(to_text(facts))
