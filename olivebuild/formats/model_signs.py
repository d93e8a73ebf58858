"""Signs that a model's folder holds another kind of model than one would take it for.

Quantised, or made for something else.

As model_config.py, it reads small files, headers and the source text of the installed libraries.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from olivebuild.core import hashing
from olivebuild.formats.model_config import (
    FEWEST,
    Config,
    ModelFinding,
    architecture_of,
    source_of,
    text_config,
)
from olivebuild.formats.safetensors import Tensor, tensors_of

QUANTISED = (
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".absmax",
    ".quant_state.bitsandbytes__nf4",
    "_blocks",
)
"""How the tensors end that stand for a quantised weight, or go with one."""
NARROW = ("F8_E4M3", "F8_E5M2", "F4", "I4", "U4")


def quantised_in(file: Path, _count: hashing.OnBytes) -> str:
    """The first tensor of a file that only a quantised model has; empty where there is none."""
    methods = [
        t.name
        for t in tensors_of(file)
        if t.name.endswith(QUANTISED)
        or t.dtype in NARROW
        or (t.dtype in WHOLE_NUMBERS and _is_matrix(t))
    ]
    return min(methods, default="")


WHOLE_NUMBERS = ("U8", "I8", "I32", "U32")


def _is_matrix(tensor: Tensor) -> bool:
    """Return whether a tensor is a weight and a matrix.

    Masks are of whole numbers in models that are not quantised, but they have other names, or more
    dimensions.
    """
    return tensor.name.endswith(".weight") and len(tensor.shape) == 2


@cache
def methods_of_transformers() -> frozenset[str]:
    """Return the methods of quantisation that the installed transformers knows.

    Empty where they are not written as expected.
    """
    text = source_of("transformers", "quantizers", "auto.py")
    block = re.search(r"^AUTO_QUANTIZER_MAPPING = \{(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    methods = set(re.findall(r'^\s*"([\w-]+)":', block[1], re.MULTILINE)) if block else set()
    return frozenset({*methods, "bitsandbytes"}) if "gptq" in methods else frozenset()


WITHOUT_HEAD = re.compile(
    r"\w*(?<!LMHead)Model|\w*For(?:MaskedLM|\w*Classification|QuestionAnswering|MultipleChoice|\w*Regression|Pre[Tt]raining)|\w*Encoder"
)
"""How classes are called that do not continue texts.

A checkpoint of one may fit a class that does, and its answers then mean nothing.
"""

TIED = ("gpt2", "bloom", "opt", "gpt_neo")
"""Types of models whose embeddings are tied unless config.json says otherwise."""


@cache
def classes_of_transformers() -> frozenset[str]:
    """Return the classes of the installed transformers that continue texts.

    Empty where they are not written as expected.
    """
    modeling = source_of("transformers", "models", "auto", "modeling_auto.py")
    block = re.search(
        r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict\((.*?)^\)",
        modeling,
        re.DOTALL | re.MULTILINE,
    )
    classes = re.findall(r'\(\s*"[^"]+",\s*\(?\s*"(\w+)"', block[1]) if block else []
    return frozenset(classes) if len(classes) > FEWEST else frozenset()


def made_for_something_else(config: Config) -> ModelFinding | None:
    """Return that a model was saved without the head that continues text.

    None if it was with one, or does not say so.
    """
    architecture, classes = architecture_of(config), classes_of_transformers()
    if not classes or architecture in classes or not WITHOUT_HEAD.fullmatch(architecture):
        return None
    tied = (
        text_config(config).get("tie_word_embeddings") is True or config.get("model_type") in TIED
    )
    # With tied embeddings the head is there all the same.
    certain = not (
        tied
        and architecture.endswith("Model")
        and not text_config(config).get("use_bidirectional_attention")
    )
    fact = (
        f"config.json says that the model was saved as {architecture}, which does not continue text"
    )
    hint = (
        "name the model that it was made from; if it does continue text, `architectures` is to "
        "name the class that does, such as LlamaForCausalLM"
    )
    return ModelFinding(fact, hint, of_model=True, fails=certain)
