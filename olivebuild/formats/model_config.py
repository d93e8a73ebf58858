"""Small files of a model's folder, and what the installed libraries know of such models.

Knows nothing of plans.

Only JSON and the source text of the installed libraries are read, and the headers of weights:
nothing heavy is imported, and no code of the folder runs. What can't be told is left to the steps.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from olivebuild.core import hashing
from olivebuild.core.fs.small_files import read_bytes, read_json
from olivebuild.core.host import installed
from olivebuild.core.values.typed import decode
from olivebuild.formats.safetensors import tensors_of

Config = Mapping[str, Any]


class ModelFinding(NamedTuple):
    """A fact about a model, or about what is to be made of it.

    `of_model`: true of whatever is made; `fails`: it can't be made.
    """

    fact: str
    hint: str
    field: tuple[str | int, ...] = ()
    of_model: bool = False
    fails: bool = True


EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
)
PLACEHOLDER = re.compile(r"<\|?(start_of_|end_of_)?(image|audio|video|vision)[a-z_]*\|?>")
NOT_TEXT = re.compile("(image|video|audio|vision|boi|eoi|boa|eoa)_")
"""How tokenizer_config.json names the tokens of images, sounds and the like."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "*.model",
    "vocab.*",
    "vocab-*.json",
    "*_vocab.json",
    "*.tiktoken",
    "tekken.json",
    "prophetnet.tokenizer",
    "bpe.codes",
    "dict.txt",
)
"""One of which every tokenizer of transformers reads its vocabulary from."""
LIBRARIES: dict[str, tuple[str, ...]] = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "auto-round": ("auto_round",),
    "aqlm": ("aqlm",),
    "hqq": ("hqq",),
    "vptq": ("vptq",),
    "torchao": ("torchao",),
    "quark": ("quark",),
    "eetq": ("kernels",),
    "fp8": ("accelerate",),
    "mxfp8": ("accelerate",),
    "bitnet": ("accelerate",),
    "fbgemm_fp8": ("fbgemm_gpu",),
    "quanto": ("optimum",),
    "fp_quant": ("fp_quant",),
    "higgs": ("flute", "fast_hadamard_transform"),
    "spqr": ("spqr_quant",),
}
"""What transformers imports for each method of quantisation, see transformers/quantizers/."""
LAST = 64


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises OSError or ValueError."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ValueError("it is not a JSON object")
    return config


def text_config(config: Config) -> dict[str, Any]:
    """The configuration with that of its language model in it, where it has one of its own."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else dict(config)


def architecture_of(config: Config) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def quantised_by(config: Config) -> str:
    """The method of quantisation; empty for a model that is not quantised."""
    quantisation = config.get("quantization_config")
    if not isinstance(quantisation, dict):
        return ""
    method = quantisation.get("quant_method") or (
        "bitsandbytes"
        if quantisation.get("load_in_4bit") or quantisation.get("load_in_8bit")
        else "unknown"
    )
    return str(method)


def full_precision_hint(trained_on: str) -> str:
    """Return what to name in the place of a quantised base that goes by that name."""
    full = re.sub(r"(-unsloth)?-bnb-4bit$", "", trained_on)
    example = f", here probably hf:{full}" if full != trained_on else ""
    return (
        f"name the full-precision model{example}: an adapter merged into quantised weights loses "
        "what it learnt"
    )


def context_of(config: Config) -> int | None:
    """Return how many tokens the model takes, prompt and answer together.

    None where it does not say.
    """
    text = text_config(config)
    context = next(
        (
            text[name]
            for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
            if text.get(name)
        ),
        None,
    )
    return context if isinstance(context, int) else None


# -- what a file holds, as text that can be remembered


class _Added(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]] = {}


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []


def last_in(file: Path, _count: hashing.OnBytes) -> str:
    """The last tokens of a tokenizer.json, as JSON."""
    return json.dumps(last_tokens(read_bytes(file)))


def last_tokens(text: bytes) -> list[tuple[int, str]]:
    """(number, content) of the last tokens that a tokenizer.json holds, the highest first."""
    try:
        tokenizer = decode(text, _Tokenizer)
    except (msgspec.MsgspecError, RecursionError):
        # A kind of tokenizer that is written otherwise; whoever loads it tells whether it is one.
        return []
    vocabulary = tokenizer.model.vocab
    tokens = (
        {i: piece[0] for i, piece in enumerate(vocabulary)}
        if isinstance(vocabulary, list)
        else {i: text for text, i in vocabulary.items()}
    )
    tokens |= {token.id: token.content for token in tokenizer.added_tokens}
    return sorted(tokens.items(), reverse=True)[:LAST]


def without_embedding(
    last: list[tuple[int, str]], config: Config, rows: int
) -> tuple[list[str], list[str]]:
    """Tokens beyond an embedding of so many rows: texts, and those that stand for what is no text.

    `config`: tokenizer_config.json.

    Gemma-3-1b is published like this: with places for pictures that a model of texts has no
    embedding for.
    """
    extra = config.get("extra_special_tokens")
    named_tokens = {**config, **(extra if isinstance(extra, dict) else {})}
    named = {
        value
        for name, value in named_tokens.items()
        if isinstance(value, str) and NOT_TEXT.match(name)
    }
    beyond = [content for number, content in reversed(last) if number >= rows]
    other = [content for content in beyond if content in named or PLACEHOLDER.fullmatch(content)]
    return [content for content in beyond if content not in other], other


def rows_in(file: Path, _count: hashing.OnBytes) -> str:
    embeddings = [
        t
        for t in tensors_of(file)
        if t.name.endswith(EMBEDDINGS) and len(t.shape) == 2 and t.dtype in ("F32", "F16", "BF16")
    ]
    return str(embeddings[0].shape[0]) if len(embeddings) == 1 else ""


def kinds_in(file: Path, _count: hashing.OnBytes) -> str:
    return (
        "float"
        if all(t.dtype in ("F64", "F32", "F16", "BF16") for t in tensors_of(file))
        else "whole"
    )


# -- what the installed libraries know, from their source


def is_there(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


@cache
def source_of(library: str, *path: str) -> str:
    """Return the text of a file of an installed library, which is not imported.

    Empty where there is none.
    """
    with contextlib.suppress(ImportError, ValueError, OSError, UnicodeDecodeError):
        spec = importlib.util.find_spec(library)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (file := Path(folder, *path)).is_file():
                return file.read_text("utf-8")
    return ""


@cache
def types_of_peft() -> frozenset[str]:
    """Return the types of models for which the installed peft chooses modules for LoRA.

    It is empty where they are not written as expected.
    """
    table = re.search(
        r"^TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING = \{$(.*?)^\}$",
        source_of("peft", "utils", "constants.py"),
        re.MULTILINE | re.DOTALL,
    )
    return frozenset(
        re.findall(r"""^ {4}["']([\w-]+)["']:""", table[1], re.MULTILINE) if table else ()
    )


@cache
def architectures_of_builder() -> frozenset[str]:
    """Return the architectures that the installed model builder names.

    Empty where it is not written as expected.
    """
    return frozenset(
        re.findall(
            r"""config\.architectures\[0\] == ["'](\w+)["']""",
            source_of("onnxruntime_genai", "models", "builder.py"),
        )
    )


@cache
def methods_of_builder() -> frozenset[str]:
    """Return the methods of quantisation that the installed model builder reads.

    Empty where it is not written as expected.
    """
    text = source_of("onnxruntime_genai", "models", "loaders", "quant_model.py")
    methods = re.findall(r"""quant_type == ["']([\w-]+)["']""", text)
    methods += [
        name
        for group in re.findall(r"quant_type in [{(\[]([^})\]]*)", text)
        for name in re.findall(r"""["']([\w-]+)["']""", group)
    ]
    return frozenset(methods)


FEWEST = 20
"""A mapping with fewer names than that was not read rightly."""


@cache
def types_of_transformers() -> tuple[dict[str, str], frozenset[str]]:
    """Return the types of models that the installed transformers knows.

    (model type -> class of its configuration, model types with a causal language model).

    Empty where they are not written as expected.
    """
    configured: dict[str, str] = {}
    for name in ("auto_mappings.py", "configuration_auto.py"):
        pairs = re.findall(
            r'(?:\(\s*"([^"]+)",\s*|"([^"]+)": )"(\w+Config)"',
            source_of("transformers", "models", "auto", name),
        )
        configured |= {first or second: kind for first, second, kind in pairs}
    modeling = source_of("transformers", "models", "auto", "modeling_auto.py")
    block = re.search(
        r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict\((.*?)^\)",
        modeling,
        re.DOTALL | re.MULTILINE,
    )
    causal = set(re.findall(r'\(\s*"([^"]+)",\s*[("]', block[1])) if block else set()
    return (
        configured if len(configured) > FEWEST else {},
        frozenset(causal) if len(causal) > FEWEST else frozenset(),
    )


def unknown_to_transformers(config: Config) -> ModelFinding | None:
    """Return why transformers can't load the model without code of the folder's own.

    None if the installed version can.
    """
    configured, causal = types_of_transformers()
    kind, auto_map = str(config.get("model_type") or ""), config.get("auto_map")
    if not kind or not configured or not causal:
        return None
    # transformers goes by the class of the configuration.
    if kind in configured and (
        kind in causal or configured[kind] in {configured.get(name) for name in causal}
    ):
        return None
    version = f"transformers {installed('transformers')}"
    fact = f"{version} does not know {architecture_of(config)} (model_type {kind})"
    if isinstance(auto_map, dict) and "AutoModelForCausalLM" in auto_map:
        hint = (
            "trust_remote_code: true on the model would let it run its own code: read its .py "
            "files "
            "first"
        )
        return ModelFinding(
            f"{fact}, and code that comes with the model is refused", hint, of_model=True
        )
    if kind in configured:
        fact = (
            f"{architecture_of(config)} (model_type {kind}) is not a causal language model of "
            f"{version}"
        )
        return ModelFinding(fact, "name a model that continues text", of_model=True)
    return ModelFinding(fact, "another version of transformers may know it", of_model=True)
