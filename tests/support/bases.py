"""Model folders of a few small files, and what a plan finds in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from olivebuild.planner.checks.all_checks import problems
from olivebuild.planner.checks.plan_finding import PlanFinding
from tests.formats.test_safetensors import write
from tests.support.sites import Site

TOKENS, WIDTH = 12, 2


LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "num_hidden_layers": 4,
    "max_position_embeddings": 512,
    "vocab_size": TOKENS,
}


RECIPE = """\
default: [onnx]
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: rows.jsonl, user: "{phrase}", assistant: "{tone}", holdout: 0.3}
  adapter: {kind: adapter, model: base, data: tone.train, training: {steps: 1}}
  merged: {kind: merged, model: base, adapter: adapter}
  onnx: {kind: onnx, model: merged, precision: int4}
  whole: {kind: onnx, model: base, adapter: adapter, provider: dml, precision: fp16}
  bench: {kind: benchmark, models: [base, merged], data: tone.test}
"""


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}


def tokenizer(*added: str, tokens: int = TOKENS, unigram: bool = False) -> str:
    vocabulary: object = (
        [[f"t{i}", -1.0] for i in range(tokens)] if unigram else {f"t{i}": i for i in range(tokens)}
    )
    more = [{"id": tokens + i, "content": text, "special": True} for i, text in enumerate(added)]
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": more,
            "model": {"type": "Unigram" if unigram else "BPE", "vocab": vocabulary},
        }
    )


def make_base(folder: Path, rows: int = TOKENS, *, stored: str = "F32", **changes: Any) -> None:
    """A model folder whose weights are an embedding and a layer; what is None is left out of its
    config.json.
    """
    folder.mkdir(exist_ok=True)
    config = {name: value for name, value in (LLAMA | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer())
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    size = {"F32": 4, "U8": 1}[stored]
    tensors = {
        "model.embed_tokens.weight": ("F32", [rows, WIDTH], bytes(rows * WIDTH * 4)),
        "layer": (stored, [4], bytes(4 * size)),
    }
    write(folder / "model.safetensors", tensors)


def found(site: Site, *goals: str) -> list[PlanFinding]:
    planner = site.planner()
    try:
        return problems(planner, planner.plan(planner.graph.goals(goals)))
    finally:
        planner.traces.close()


def only(site: Site, *goals: str) -> PlanFinding:
    (problem,) = found(site, *goals)
    return problem


def base_site(folder: Path) -> Site:
    """A recipe with all kinds over a base that is still to be made."""
    site = Site(folder, RECIPE)
    site.write("rows.jsonl", '{"phrase": "a", "tone": "b"}\n')
    return site
