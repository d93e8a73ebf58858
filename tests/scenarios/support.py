"""What olivebuild makes of a family of models, measured on a tiny one: what a plan says of it, and
each step beside torch, transformers and peft.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.families import FAMILIES, ORIGINAL, WINDOW, write

RECIPE = """\
version: 1
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: rows.jsonl, prompt: "{phrase} is ", completion: "{tone}"}
  adapter: {kind: adapter, model: base, data: tone.train}
  merged: {kind: merged, model: base, adapter: adapter}
  onnx-fp32: {kind: onnx, model: merged, precision: fp32}
  onnx-int4: {kind: onnx, model: merged}
"""
LIMITS = {
    "trained": 1e-5,
    "gradient": 1e-5,
    "merged bf16": 0.02,
    "merged fp32": 1e-5,
    "off": 1e-4,
    "fp32": 1e-4,
    "int4": 1.0,
}
"""The most that is right: of a loss and a gradient as a share, of weights as a share, else of
logits in units of their standard deviation (int4:
root mean square)."""
ENDS = [6]
"""`<|end|>`: what the template of these models ends a turn with, taught to models that end with
another token.
"""


def refusals(folder: Path, name: str) -> dict[str, str]:
    """What `olivebuild plan` refuses for a base of that family: target -> why."""
    write(name, folder / "base")
    (folder / "rows.jsonl").write_text(
        "".join(
            json.dumps({"phrase": f"I am {w}", "tone": "joy"}) + "\n"
            for w in ("glad", "fine", "happy")
        ),
        "utf-8",
    )
    (folder / "olivebuild.yaml").write_text(RECIPE, "utf-8")
    found = {}
    # A fact is told once for a plan, of the first target that it stops.
    for target in ("adapter", "merged", "onnx-fp32", "onnx-int4"):
        words = [sys.executable, "-m", "olivebuild", "plan", "--json", target]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        problems = json.loads(done.stdout)["problems"]
        if (done.returncode, bool(problems)) not in ((0, False), (1, True)):
            raise AssertionError(done.stderr)
        if problems:
            found[target] = problems[0]["fact"]
    return found


def merged(folder: Path, store: Any, base: Path, adapter: Path) -> tuple[Path, str]:
    """The merged model as the step makes it, and by what way."""
    from olivebuild.api.action import ActionInput
    from olivebuild.ml.kinds.merged import merge
    from olivebuild.steps.merged import MergedFields
    from tests.scenarios.steps import given, job_in

    inputs = {
        "model": given(store, base),
        "adapter": ActionInput("", "", "adapter", "adapter", manifest=store.put_folder(adapter)[1]),
    }
    job = job_in(folder, store, inputs, publish=True)
    merge(job, MergedFields.model_validate({"model": "base", "adapter": "adapter"}))
    if job.result.manifest:
        out = folder / "merged"
        out.mkdir()
        store.restore(store.manifest(job.result.manifest), out)
        return out, "tensors"
    return job.out, "peft"


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        found = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
    return np.asarray(found)


def prompts() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(8, 300, n).tolist() for n in (10, WINDOW - 3, WINDOW + 7, ORIGINAL - 9)]


def spread_of(a: list[np.ndarray], b: list[np.ndarray]) -> tuple[float, float]:
    """The largest difference, and the root mean square, over the standard deviation of `a`."""
    one, other = np.concatenate(a), np.concatenate(b)
    return float(np.abs(one - other).max() / one.std()), float(
        np.sqrt(np.square(one - other).mean()) / one.std()
    )


def merge_spread(
    folder: Path, store: Any, name: str, dtype: str, times: float = 1.0
) -> tuple[dict[str, float], str, Path]:
    """Of the merged model's logits from those of base and adapter side by side, all computed in
    float32; and what to hold that against.

    `computed`: how far base and adapter are from that when they are computed in their own number
    format. `off`: the share of adapted weights
    that are not the number nearest to what float64 computes. `times`: how much larger than usual
    the matrices of the layers are.
    """
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file, save_file

    from olivebuild.ml.models import load
    from tests.support.tiny_models import make_adapter

    folder.mkdir()
    base, adapter = write(name, folder / "base", dtype=dtype), folder / "adapter"
    if times != 1.0:
        tensors = load_file(base / "model.safetensors")
        larger = {
            name: t * times if t.ndim > 1 and ".layers." in name else t
            for name, t in tensors.items()
        }
        save_file(larger, base / "model.safetensors", metadata={"format": "pt"})
    make_adapter(base, adapter, r=8, lora_alpha=12, target_modules="all-linear")
    (adapter / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDS}), "utf-8")
    out, way = merged(folder / "merge", store, base, adapter)

    def beside(dtype: torch.dtype) -> Any:
        return PeftModel.from_pretrained(load.load_model(base, dtype), str(adapter))

    def logits(model: Any) -> list[np.ndarray]:
        return [logits_of(model, ids) for ids in prompts()]

    stored = getattr(torch, dtype)
    wanted, found = logits(beside(torch.float32)), logits(load.load_model(out, torch.float32))
    exact, held = (
        beside(torch.float64).double().merge_and_unload().state_dict(),
        load.load_model(out, stored).state_dict(),
    )
    before = load.load_model(base, stored).state_dict()
    changed = [name for name, weight in held.items() if not weight.equal(before[name])]
    off = sum(int((exact[name].to(stored) != held[name]).sum()) for name in changed) / sum(
        held[name].numel() for name in changed
    )
    return (
        {
            "merged": spread_of(wanted, found)[0],
            "computed": spread_of(wanted, logits(beside(stored)))[0],
            "off": off,
        },
        way,
        out,
    )


def convert(folder: Path, store: Any, model: Path, precision: str) -> Path:
    """The ONNX folder as the step makes it. Raises BuildError."""
    from olivebuild.formats import onnx_folder
    from olivebuild.ml.kinds import onnx as onnx_kind
    from olivebuild.steps.onnx import OnnxFields
    from tests.scenarios.steps import given, job_in

    fields = OnnxFields.model_validate({"model": "merged", "precision": precision})
    job = job_in(
        folder, store, {"model": given(store, model)}, fields=fields.model_dump(exclude_none=True)
    )
    onnx_kind.run(job)
    if job.result.manifest:
        out = folder / "onnx"
        out.mkdir()
        store.restore(store.manifest(job.result.manifest), out)
    else:
        out = job.out
    # What is made here needs no trust to be used.
    assert list(onnx_folder.faults(out)) == []
    return out


def converted(onnx: Path, torch_model: Any, new: int = 12) -> tuple[tuple[float, float], bool]:
    """How far logits are from torch's after each prompt, and whether greedy tokens are torch's
    wherever it is sure of them.
    """
    import onnxruntime_genai as og

    config = json.loads((onnx / "genai_config.json").read_text("utf-8"))
    model, ours, theirs, same = og.Model(str(onnx)), [], [], True
    length = int(config["model"]["context_length"])
    for prompt in prompts():
        if len(prompt) + new >= length:
            continue
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=min(length, 512), do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(np.array(prompt, np.int32))
        ids = list(prompt)
        for _ in range(new):
            found = np.asarray(generator.get_logits(), np.float32).reshape(-1)
            wanted = logits_of(torch_model, ids)[-1]
            ours.append(found[None, : len(wanted)])
            theirs.append(wanted[None])
            token, margin = int(wanted.argmax()), np.diff(np.sort(wanted)[-2:])[0] / wanted.std()
            same = same and (int(found.argmax()) == token or margin < LIMITS["fp32"])
            ids.append(token)
            generator.append_tokens(np.array([token], np.int32))
    return spread_of(theirs, ours), same


def ends_of(file: Path) -> set[int]:
    data = json.loads(file.read_text("utf-8"))
    found = data.get("model", data).get("eos_token_id")
    return set(found if isinstance(found, list) else [found])


def measure(name: str, folder: Path) -> dict[str, Any]:
    """A row of the table: for each thing that is done, the figure, or {"refused": why}, or
    {"wrong": what}.
    """
    from olivebuild.cache.store import Store
    from olivebuild.core.errors import BuildError
    from olivebuild.ml.models import load
    from tests.scenarios.test_families import trained

    folder.mkdir()
    row: dict[str, Any] = {"published": FAMILIES[name].published}
    refused = refusals(folder, name)
    if "adapter" in refused:
        return row | {"trained": {"refused": refused["adapter"]}}
    store = Store(folder / "cache")
    how, loss, slope = trained(write(name, folder / "fp32", dtype="float32"))
    row["trained"] = {"how": how, "loss": loss, "gradient": slope}
    if "merged" in refused:
        return row | {"merged": {"refused": refused["merged"]}}
    narrow, way, out = merge_spread(folder / "narrow", store, name, "bfloat16")
    wide, _, wide_out = merge_spread(folder / "wide", store, name, "float32")
    row["merged"] = {
        "bf16": narrow["merged"],
        "fp32": wide["merged"],
        "by": way,
        "computed": narrow["computed"],
        "off": narrow["off"],
    }
    wanted = {*ENDS, *_as_set(FAMILIES[name].settings()["eos_token_id"])}
    row["ends"] = {"merged": ends_of(out / "generation_config.json") >= wanted}
    import torch

    for precision, model in (("fp32", wide_out), ("int4", out)):
        if why := refused.get(f"onnx-{precision}"):
            row[precision] = {"refused": why}
            continue
        try:
            onnx = convert(folder / precision, store, model, precision)
        except BuildError as e:
            row[precision] = {"stopped": str(e.fact)}
            continue
        except Exception as e:  # noqa: BLE001
            # What is not told as what it means.
            row[precision] = {"failed": f"{type(e).__name__}: {e}"[:200]}
            continue
        try:
            (spread, rms), same = converted(onnx, load.load_model(model, torch.float32))
        except Exception as e:  # noqa: BLE001
            # A row of the table tells whatever went wrong.
            row[precision] = {"failed": f"{type(e).__name__}: {e}"[:200]}
            continue
        row[precision] = {"spread": spread, "rms": rms, "same tokens": bool(same)}
        row["ends"][precision] = ends_of(onnx / "genai_config.json") >= wanted
    return row


def _as_set(value: Any) -> set[int]:
    return set(value) if isinstance(value, list) else {value}


def faults(row: dict[str, Any]) -> list[str]:
    """What in a row is wrong, and was not said."""
    found = [
        f"{what}: {done['failed']}"
        for what, done in row.items()
        if isinstance(done, dict) and "failed" in done
    ]
    if "loss" in row["trained"]:
        found += ["trained"] * (
            max(row["trained"]["loss"], row["trained"]["gradient"]) > LIMITS["trained"]
        )
    if "bf16" in row.get("merged", {}):
        found += [
            f"merged {kind}"
            for kind in ("bf16", "fp32")
            if not row["merged"][kind] <= LIMITS[f"merged {kind}"]
        ]
        found += ["weights that could be nearer"] * (
            row["merged"]["by"] == "tensors" and row["merged"]["off"] > LIMITS["off"]
        )
    if "spread" in row.get("fp32", {}):
        found += ["fp32"] * (
            not row["fp32"]["spread"] <= LIMITS["fp32"] or not row["fp32"]["same tokens"]
        )
    if "spread" in row.get("int4", {}):
        found += ["int4"] * (not row["int4"]["rms"] <= LIMITS["int4"])
    return found + [f"ends of {what}" for what, right in row.get("ends", {}).items() if not right]


HEAD = """\
# Models

What olivebuild makes of the families of models that people fine-tune. Each row is a measurement: a
tiny model with random weights, configured as the family's repository is (`published`), taken
through training, merge and conversion in this environment ({versions}).
`python -m tests.support.families --write docs/support.md` makes this page anew, and
`pytest -m "scenario and slow" tests/scenarios/test_families.py` checks it.

- **Trained**: how rows lie (packed end to end, or padded), and the largest difference of loss and
  gradient from those of rows one by one through transformers, as a share (float32; at most 1e-5).
  Rows are shorter and longer than window and original context, and mixed.
- **Merged**: the largest difference of the merged model's logits from those of base and adapter
  side by side, over their standard deviation: bfloat16 (at most 0.02), float32 (at most 1e-5); and
  what computed it. Both sides are computed in float32 from the numbers that are stored, so that the
  figure is what rounding the merged weights to the base's number format costs, and nothing else.
  Merged by tensors, a weight is the bfloat16 number nearest to what float64 computes of base and
  adapter, for all but {off} of the weights here (at most 1 in 10,000: those that float32 takes for
  a tie): no bfloat16 weight is nearer. peft rounds an expert's product once before it adds it. How
  much of 0.02 that rounding takes is the model's doing: with matrices 2.5 times as large Nemotron
  comes to 0.09, each weight still the nearest one, and to 0.2 when base and adapter are computed in
  bfloat16. The step proves each weight (by tensors), or holds the logits to what rounding the same
  weights at random does (by peft, told above 0.02).
- **bf16 itself**: as much do the logits of base and adapter differ when they are computed in
  bfloat16, not merged: what its users have anyway.
- **fp32**, **int4**: the ONNX model beside torch, prompts and 12 greedy tokens each, around window
  and original context, as far as `genai_config.json` promises. fp32: the largest difference of
  logits over their standard deviation (at most 1e-4), and the same tokens wherever torch is surer
  than that. int4: the root mean square of the same (at most 1.0: what 4 bits cost random weights is
  more than trained ones).
- **Stops**: the end of turn that was taught is among the ends of the merged and the converted
  models.
- The adapter is LoRA's. LoHa's, LoKr's and LoftQ's are trained on each family but the last three,
  and merged by peft within what rounding explains (`pytest -m "scenario and slow"
  tests/scenarios/test_methods.py`).
- *refused* is said by `plan`, and by `build` before anything runs; *stopped* by the conversion,
  which writes nothing. Numbers refer to the notes.

| Family | Published | Trained | Merged | bf16 itself | fp32 | int4 | Stops |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""

BELOW = "\n## Where models come from\n"
"""What is below the table is not measured here, and kept."""


def page(rows: dict[str, dict[str, Any]], before: str = "") -> str:
    """The table, with what was refused and why below it, and what else the page before says."""
    from importlib.metadata import version

    notes: dict[str, int] = {}

    def cell(
        done: dict[str, Any] | None, measured: str, text: Callable[[dict[str, Any]], str]
    ) -> str:
        for kind in ("refused", "stopped", "failed"):
            if done and kind in done:
                return f"{kind} [{notes.setdefault(done[kind], len(notes) + 1)}]"
        return text(done) if done and measured in done else "-"

    lines = []
    for name, row in rows.items():
        trained, merged, fp32, int4 = (
            row.get(what) for what in ("trained", "merged", "fp32", "int4")
        )
        cells = [
            cell(
                trained,
                "loss",
                lambda row: f"{row['how']}, {max(row['loss'], row['gradient']):.0e}",
            ),
            cell(
                merged,
                "bf16",
                lambda row: f"{row['bf16']:.1g}, {row['fp32']:.0e}, by {row['by']}",
            ),
            f"{merged['computed']:.1g}" if merged and "bf16" in merged else "-",
            cell(
                fp32,
                "spread",
                lambda row: (
                    f"{row['spread']:.0e}, "
                    f"{'same tokens' if row['same tokens'] else 'other tokens'}"
                ),
            ),
            cell(int4, "rms", lambda row: f"{row['rms']:.2g}"),
            ("yes" if all(row["ends"].values()) else "no") if row.get("ends") else "-",
        ]
        lines.append(f"| {name} | {row['published']} | {' | '.join(cells)} |\n")
    libraries = ("transformers", "peft", "onnxruntime", "onnxruntime-genai", "torch")
    told = "".join(f"{number}. {why}\n" for why, number in notes.items())
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    off = max(
        (
            row["merged"]["off"]
            for row in rows.values()
            if row.get("merged", {}).get("by") == "tensors"
        ),
        default=0.0,
    )
    share = f"1 in {round(1 / off, -3):,.0f}" if off else "none"
    _, title, rest = before.partition(BELOW)
    return HEAD.format(versions=versions, off=share) + "".join(lines) + f"\n{told}" + title + rest


def main() -> None:
    """`python -m tests.support.families [--write FILE] [NAME...]`: measure, print what is wrong,
    and write the page.
    """
    import argparse
    import tempfile
    import warnings

    import torch
    import transformers

    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.names:
            rows[name] = measure(name, Path(scratch, name))
            print("ROW", name, faults(rows[name]), json.dumps(rows[name]), flush=True)
    if given.write:
        before = given.write.read_text("utf-8") if given.write.exists() else ""
        given.write.write_text(page(rows, before), "utf-8")
