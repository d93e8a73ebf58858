"""A new adapter, then merge and int4: olivebuild's tensor-level rebuild beside peft + the model
builder, on one model, in one run.

    # A Phi-3 of 0.7B parameters; about 10 minutes on 2 cores.
    python benchmarks/rebuild.py
    # Phi-3-mini.
    python benchmarks/rebuild.py --layers 32 --hidden 3072 --intermediate 8192 --heads 32
    python benchmarks/rebuild.py --quick

Random weights and a tokenizer trained on the spot. Peers: `merge_and_unload` and `save_pretrained`,
then the builder; and the builder's own `adapter_path`, which leaves LoRA in the graph. Times are
until the result lies in its folder, fsync included for us (the peers don't); how much of it that
is, a run without fsync says.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, Cost, end, run, table

RECIPE = """\
default: onnx-int4
targets:
  base: {kind: model, source: base}
  adapter: {kind: adapter, source: adapter}
  merged: {kind: merged, model: base, adapter: adapter}
  onnx-int4: {kind: onnx, model: merged, precision: int4, provider: cpu}
"""
BUILDER = """
import sys
from onnxruntime_genai.models.builder import create_model, parse_extra_options
folder, out, adapter = sys.argv[1:4]
place = ("", folder, out, "int4", "cpu", out + ".cache")
create_model(*place, **parse_extra_options(*place, [f"adapter_path={adapter}"] if adapter else []))
"""
MERGE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, out = sys.argv[1:4]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
AutoTokenizer.from_pretrained(base).save_pretrained(out)
"""
CHECKS = {
    "olivebuild.ml.kernels.blockwise": {"is_finite": True},
    "olivebuild.ml.models.opened": {"check_inputs": None, "check_output": None},
    "olivebuild.ml.weights.placement": {"check_places": None},
    "olivebuild.ml.onnx.proof_cache": {"proven_length": 0},
    "olivebuild.ml.onnx.skeleton_cache": {"check_finite_input": None},
}
"""module -> what is no part of the arithmetic there, and what it gives where all is well."""
NO_CHECKS = f"""
import importlib.abc, importlib.machinery, sys
CHECKS = {CHECKS!r}
class Unchecked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in CHECKS else None
        if spec:
            run = spec.loader.exec_module
            def exec_module(module):
                run(module)
                for check, result in CHECKS[name].items():
                    getattr(module, check)
                    setattr(module, check, lambda *given, result=result, **named: result)
            spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Unchecked())
"""
"""A sitecustomize.py with which nothing is checked that is not part of the arithmetic: how much of
the time checks take.
"""
NO_SYNC = "import os\nos.fsync = lambda file: None\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--intermediate", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--vocabulary", type=int, default=32064)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--modules", default="qkv_proj,o_proj")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, under a minute; no goals"
    )
    parser.add_argument("--json", action="store_true", help="only the last line")
    options = parser.parse_args()
    if options.quick:
        (
            options.hidden,
            options.intermediate,
            options.layers,
            options.heads,
            options.vocabulary,
            options.rank,
        ) = 64, 128, 2, 4, 400, 4
        options.rounds = 1
    os.environ["HF_HUB_OFFLINE"] = "1"
    # The builder by itself writes the commit of a repository around its environment into the graph,
    # which olivebuild keeps out.
    os.environ["GIT_DIR"] = os.devnull
    # Where it is set, our own modules alone would be compiled on each start: those of the peers
    # were when pip installed them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(
        prefix="rebuild-", dir=os.environ.get("BENCHMARK_DIR")
    ) as name:
        measure(Path(name), options)


def measure(root: Path, options: argparse.Namespace) -> None:
    count = make_model(root / "base", options)
    for number in range(3 * options.rounds + 1):
        make_adapter(root / f"adapter{number}", root / "base", options, number)
    # What was made for the benchmark is not to be written to disk while it is measured.
    if hasattr(os, "sync"):
        os.sync()
    ours = Ours(root)
    first = ours.build(0, "onnx-int4")
    rounds: list[tuple[Cost | None, ...]] = []
    for number in range(1, options.rounds + 1):
        mine, unsynced = (
            ours.build(number, "onnx-int4"),
            ours.build(options.rounds + number, "onnx-int4", without="sync"),
        )
        unchecked = ours.build(2 * options.rounds + number, "onnx-int4", without="checks")
        peer, whole, lora = (
            (None, None, None)
            if options.no_peers
            else (peer_merge(root, number), peer_build(root), peer_lora(root, number))
        )
        rounds.append((mine, unsynced, peer, whole, lora, unchecked))
    if not options.no_peers:
        ours.build(options.rounds, "onnx-int4")
        compare(root)
        ours.build(options.rounds, "merged")
        compare_merged(root)
    report(first, rounds, count, options)


class Ours:
    """A recipe's folder with a cache of its own."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "work"
        self.folder.mkdir()
        self.root = root
        (self.folder / "olivebuild.yaml").write_text(RECIPE)
        (self.folder / "base").symlink_to(root / "base")
        for name, text in (("sync", NO_SYNC), ("checks", NO_CHECKS)):
            (root / f"no-{name}").mkdir()
            (root / f"no-{name}/sitecustomize.py").write_text(text)

    def build(self, number: int, goal: str, *, without: str = "") -> Cost:
        shutil.rmtree(self.folder / "adapter", ignore_errors=True)
        shutil.copytree(self.root / f"adapter{number}", self.folder / "adapter")
        paths = [
            str(Path(__file__).parent.parent),
            *([str(self.root / f"no-{without}")] if without else []),
            os.environ.get("PYTHONPATH", ""),
        ]
        environment = {
            "OLIVEBUILD_CACHE": str(self.root / "cache"),
            "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        }
        return run(
            [sys.executable, "-m", "olivebuild", goal], folder=self.folder, environment=environment
        )


def peer_merge(root: Path, number: int) -> Cost:
    shutil.rmtree(root / "peer-merged", ignore_errors=True)
    return run(
        [
            sys.executable,
            "-c",
            MERGE,
            str(root / "base"),
            str(root / f"adapter{number}"),
            str(root / "peer-merged"),
        ],
        folder=root,
    )


def peer_build(root: Path) -> Cost:
    shutil.rmtree(root / "peer-int4", ignore_errors=True)
    return run(
        [sys.executable, "-c", BUILDER, str(root / "peer-merged"), str(root / "peer-int4"), ""],
        folder=root,
    )


def peer_lora(root: Path, number: int) -> Cost:
    shutil.rmtree(root / "peer-lora", ignore_errors=True)
    return run(
        [
            sys.executable,
            "-c",
            BUILDER,
            str(root / "base"),
            str(root / "peer-lora"),
            str(root / f"adapter{number}"),
        ],
        folder=root,
    )


def compare(root: Path) -> None:
    """Raises SystemExit unless the ONNX files are the peer's, byte for byte."""
    for name in ("model.onnx", "model.onnx.data"):
        ours, theirs = root / "work/build/onnx-int4" / name, root / "peer-int4" / name
        with open(ours, "rb") as a, open(theirs, "rb") as b:
            while True:
                x, y = a.read(1 << 24), b.read(1 << 24)
                if x != y:
                    raise SystemExit(f"{name} is not the peer's")
                if not x:
                    break


def compare_merged(root: Path) -> None:
    """Raises SystemExit unless the merged tensors are the peer's, byte for byte, whatever file they
    lie in.
    """
    from safetensors import safe_open

    def tensors(folder: Path) -> dict[str, Path]:
        file_of: dict[str, Path] = {}
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "np") as f:
                file_of |= dict.fromkeys(f.keys(), file)
        return file_of

    import torch

    ours, theirs = tensors(root / "work/build/merged"), tensors(root / "peer-merged")
    if set(ours) != set(theirs):
        raise SystemExit(
            f"the merged models hold other tensors: {sorted(set(ours) ^ set(theirs))[:3]}"
        )
    for name in ours:
        with safe_open(ours[name], "pt") as a, safe_open(theirs[name], "pt") as b:
            if not torch.equal(
                a.get_tensor(name).view(torch.int16), b.get_tensor(name).view(torch.int16)
            ):
                raise SystemExit(f"{name} is not the peer's")


def make_model(folder: Path, options: argparse.Namespace) -> int:
    """A Phi-3 with random weights, in a process of its own so that this one stays small; the number
    of parameters.
    """
    import subprocess

    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import benchmarks.rebuild as b; "
        "b.write_model(sys.argv[2], json.loads(sys.argv[3]))"
    )
    command = [
        sys.executable,
        "-c",
        script,
        str(Path(__file__).parent.parent),
        str(folder),
        json.dumps(vars(options)),
    ]
    return int(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def write_model(name: str, options: dict[str, Any]) -> None:
    """`texts` are files whose words the tokenizer learns; else it knows little but letters."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

    folder = Path(name)
    folder.mkdir()
    texts = [Path(file).read_text("utf-8") for file in options.get("texts", ())]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = ["<unk>", "<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=options["vocabulary"] if texts else 390,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = texts or ["the quick brown fox jumps over the lazy dog"] * 10
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    fast.save_pretrained(folder)
    config = Phi3Config(
        vocab_size=options["vocabulary"],
        hidden_size=options["hidden"],
        intermediate_size=options["intermediate"],
        num_hidden_layers=options["layers"],
        num_attention_heads=options["heads"],
        num_key_value_heads=options["heads"],
        max_position_embeddings=4096,
        original_max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        sliding_window=None,
        dtype=torch.bfloat16,
        architectures=["Phi3ForCausalLM"],
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: tuple(p.shape) for n, p in Phi3ForCausalLM(config).named_parameters()}
    torch.manual_seed(0)
    count, shard, number, held = 0, {}, 1, 0
    for tensor, shape in shapes.items():
        shard[tensor] = (torch.randn(shape) * 0.02 + (1 if len(shape) == 1 else 0)).to(
            torch.bfloat16
        )
        count += shard[tensor].numel()
        held += shard[tensor].numel()
        if held > 500_000_000:
            save_file(shard, folder / f"model-{number:05d}.safetensors", metadata={"format": "pt"})
            shard, number, held = {}, number + 1, 0
    save_file(shard, folder / f"model-{number:05d}.safetensors", metadata={"format": "pt"})
    names = {p.name: json_header(p) for p in sorted(folder.glob("*.safetensors"))}
    index = {
        "metadata": {"total_size": 2 * count},
        "weight_map": {t: file for file, tensors in names.items() for t in tensors},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    print(count)


def json_header(file: Path) -> list[str]:
    with open(file, "rb") as f:
        return [
            n
            for n in json.loads(f.read(int.from_bytes(f.read(8), "little")))
            if n != "__metadata__"
        ]


def make_adapter(folder: Path, base: Path, options: argparse.Namespace, seed: int) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    config = json.loads((base / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "qkv_proj": (3 * hidden, hidden),
        "o_proj": (hidden, hidden),
        "gate_up_proj": (2 * inner, hidden),
        "down_proj": (hidden, inner),
    }
    modules, random, tensors = options.modules.split(","), np.random.default_rng(seed), {}
    for layer in range(config["num_hidden_layers"]):
        for module in modules:
            part = "self_attn" if module in ("qkv_proj", "o_proj") else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{part}.{module}"
            n, k = shapes[module]
            tensors[f"{stem}.lora_A.weight"] = (
                random.standard_normal((options.rank, k)) * 0.02
            ).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = (
                random.standard_normal((n, options.rank)) * 0.02
            ).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    lora = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": options.rank,
        "lora_alpha": options.rank,
        "target_modules": modules,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(lora))


def report(
    first: Cost, rounds: list[tuple[Cost | None, ...]], count: int, options: argparse.Namespace
) -> None:
    def median(costs: list[Cost]) -> Cost:
        """The median of each figure."""
        middle = len(costs) // 2
        return Cost(
            *(sorted(getattr(c, name) for c in costs)[middle] for name in ("wall", "cpu", "peak"))
        )

    def row(name: str, cost: Cost) -> list[str]:
        return [name, f"{cost.wall:.2f} s", f"{cost.cpu:.1f} s", f"{cost.peak / 2**20:,.0f} MiB"]

    def column(i: int) -> Cost:
        return median([cost for r in rounds if (cost := r[i])])

    mine, unsynced, unchecked = column(0), column(1), column(5)
    rows = [
        row("olivebuild, first build", first),
        row("olivebuild, new adapter", mine),
        row("  the same without fsync", unsynced),
    ]
    rows.append(row("  the same without checks", unchecked))
    # At most a fifth goes into checks.
    share = round(unchecked.wall / mine.wall, 2)
    checked = Claim(
        "new adapter to int4 beside the same without checks, wall",
        mine.wall,
        unchecked.wall,
        "s",
        share,
        None if options.quick else 0.83,
    )
    claims = [checked]
    if not options.no_peers:
        merge, build, lora = column(2), column(3), column(4)
        both = Cost(merge.wall + build.wall, merge.cpu + build.cpu, max(merge.peak, build.peak))
        rows += [
            row("peft merge", merge),
            row("model builder", build),
            row("peft + builder", both),
            row("builder with adapter_path", lora),
        ]

        def claim(what: str, ours: float, peer: float, unit: str, goal: float) -> Claim:
            return Claim(
                what,
                round(ours, 3),
                round(peer, 3),
                unit,
                round(peer / ours, 2),
                None if options.quick else goal,
            )

        mebi = 2.0**20
        claims += [
            claim("new adapter to int4, wall", mine.wall, both.wall, "s", 20),
            claim(
                "new adapter to int4, peak memory", mine.peak / mebi, both.peak / mebi, "MiB", 25
            ),
            claim("first build, wall", first.wall, both.wall, "s", 2),
            claim("first build, peak memory", first.peak / mebi, both.peak / mebi, "MiB", 6),
        ]
    if not options.json:
        share = len(options.modules.split(","))
        print(
            f"{count / 1e6:,.0f}M parameters, LoRA of rank {options.rank} on {share} modules "
            f"({options.modules}); medians of {options.rounds}\n"
        )
        print(table(["", "wall", "CPU", "peak RSS of all processes"], rows))
        if not options.no_peers:
            print(
                "\nThe ONNX files are byte for byte the same; the merged models tensor by tensor."
            )
    end(claims, "torch", "transformers", "peft", "onnxruntime", "onnxruntime-genai")


if __name__ == "__main__":
    main()
