"""Checks of an adapter's configuration and the names of its tensors, before a merge.

They need no torch, and run before any work starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from olivebuild.core.fs.small_files import parse_json
from olivebuild.ml.weights.view import Weight

PREFIX = "base_model.model."
MERGEABLE = {
    "ADALORA", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA",
    "IA3", "LN_TUNING", "LOHA", "LOKR",
    "LORA", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA",
    "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA",
    "VBLORA", "VERA", "WAVEFT",
}  # fmt: skip
"""Types of adapters whose effect peft can write into the base's weights.

For all but LORA a comparison of logits is the only proof.
"""
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that change nothing once the trained weights are loaded."""
RECOMPUTED = ("pissa", "olora", "mica")
"""Those that peft computes again, and takes off the base's weights, at each load."""
CONVERT = (
    "save it converted, as a plain LoRA adapter: save_pretrained(FOLDER, "
    "path_initial_model_for_weight_conversion=...)"
)

QUANTISED = "quantisation.json"
"""In an adapter's folder: how the base was quantised that it was trained on."""
SUBTRACTED = "loftq.safetensors"
"""In an adapter's folder: what LoftQ subtracted from weights before they were quantised."""

Refusal = tuple[str, str]
"""Fact and hint."""


def why_unusable(config: dict[str, Any]) -> Refusal | None:
    """Return why an adapter can't be loaded as it was trained, or merged into anything."""
    method = config.get("peft_type")
    if method not in MERGEABLE:
        return (
            f"a {method} adapter can't be merged",
            "it has no counterpart in the base's weights; train a LoRA adapter instead",
        )
    if method != "LORA":
        return None
    if refusal := _why_start_unusable(config):
        return refusal
    if config.get("megatron_config") or config.get("arrow_config"):
        name = "megatron_config" if config.get("megatron_config") else "arrow_config"
        return (
            f"the adapter sets {name}, which needs more than its own folder",
            "save it as a plain LoRA adapter",
        )
    return None


def _why_start_unusable(config: dict[str, Any]) -> Refusal | None:
    """Return why the weights that a LoRA adapter was trained from can't be had again."""
    start = config.get("init_lora_weights", True)
    name = start.lower() if isinstance(start, str) else ""
    if name.startswith("pissa_niter"):
        return (
            "the adapter starts from a decomposition of the base that is drawn at random at each "
            f"load (init_lora_weights: {start})",
            CONVERT,
        )
    if name in ("corda", "loftq", "lora_ga"):
        return (
            "training changed the base's weights in a way that the adapter does not tell "
            f"(init_lora_weights: {start})",
            CONVERT,
        )
    if start is not None and start not in PLAIN_STARTS and name not in RECOMPUTED:
        others = ", ".join(str(s) for s in (*PLAIN_STARTS[2:], *RECOMPUTED))
        return f"init_lora_weights: {start} is not known", f"known are true, false, {others}"
    return None


def is_of_loftq(quantised: bytes | None) -> bool:
    """Return whether LoftQ changed the base that an adapter acts on, by its QUANTISED file."""
    try:
        said = parse_json(quantised) if quantised else None
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and bool(said.get("loftq_iter"))


def why_unmergeable(
    config: dict[str, Any], tensors: Iterable[Weight], base: dict[str, Weight]
) -> Refusal | None:
    """Return why an adapter that works beside its base can't become part of it, or does not fit."""
    by_name = {w.name: w for w in tensors}
    if config.get("alora_invocation_tokens"):
        return (
            "the adapter acts only after its invocation tokens (alora_invocation_tokens)",
            "weights can't say that; use it unmerged",
        )
    if config.get("layer_replication"):
        fact = (
            "the adapter repeats layers of the base (layer_replication: "
            f"{config['layer_replication']}): the merge would be another, deeper model"
        )
        return (
            fact,
            "train an adapter without layer_replication, or on a base that has these layers",
        )
    if config.get("use_qalora"):
        return (
            "the adapter was trained for a quantised base (use_qalora)",
            "it acts on groups of a quantised layer's inputs; train a LoRA adapter instead",
        )
    for name in sorted(by_name):
        module = name.removeprefix(PREFIX).removesuffix(".lora_B.bias")
        if (
            name.endswith(".lora_B.bias")
            and f"{module}.weight" in base
            and f"{module}.bias" not in base
        ):
            return (
                f"the adapter has a bias for {module} (lora_bias), where the base has none",
                "train it without lora_bias",
            )
    return _grown(by_name, base) or _misnamed(by_name, base)


def _grown(by_name: dict[str, Weight], base: dict[str, Weight]) -> Refusal | None:
    """Return the refusal of an adapter for which tokens were added to the base."""
    for name, weight in sorted(by_name.items()):
        stem = name.removeprefix(PREFIX)
        original = base.get(stem.replace(".base_layer.", ".").replace(".modules_to_save.", "."))
        if ".lora_" in name or original is None or len(original.shape) != 2:
            continue
        if weight.shape[1:] == original.shape[1:] and weight.shape != original.shape:
            module = stem.removesuffix(".weight").removesuffix(".base_layer")
            fact = (
                f"the adapter's {module} has {weight.shape[0]} rows, the base's "
                f"{original.shape[0]}: tokens were added before training"
            )
            hint = (
                f"name a base with the same tokens: resize_token_embeddings({weight.shape[0]}), "
                "then save it with the adapter's tokenizer"
            )
            return fact, hint
    return None


def _misnamed(by_name: dict[str, Weight], base: dict[str, Weight]) -> Refusal | None:
    """Return what is different about the names of LoRA's tensors, if none names a base's weight."""
    lora = sorted(name for name in by_name if ".lora_A." in name)
    if not lora:
        return None
    first = lora[0]
    stem = first.partition(".lora_A.")[0]
    if refusal := _malformed(first, stem, base):
        return refusal
    if any(f"{_module(name)}.weight" in base for name in lora if name.startswith(PREFIX)):
        return None
    wanted = stem.removeprefix(PREFIX)
    ends = [name for name in base if name.endswith(f".{_end(wanted)}.weight")]
    if not ends or _is_renamed(wanted):
        return None
    return (
        f"the adapter's {first} has no place in the model; the base has {min(ends)}",
        "was it trained on a model of another class, one that reads images perhaps?",
    )


def _module(name: str) -> str:
    """Return the base's module that a LoRA tensor names."""
    return name.partition(".lora_A.")[0].removeprefix(PREFIX)


def _malformed(first: str, stem: str, base: dict[str, Weight]) -> Refusal | None:
    """Return why a LoRA tensor has a name that save_pretrained of peft does not give."""
    if "._orig_mod." in f".{first}":
        return (
            f"the adapter's {first} has no place in the model: a compiled model was saved",
            "save the model inside it, model._orig_mod",
        )
    if (
        not first.endswith(".lora_A.weight")
        and first.count(".lora_A.") == 1
        and first.endswith(".weight")
    ):
        name = first.partition(".lora_A.")[2].removesuffix(".weight")
        fact = (
            f"the adapter's {first} has no place in the model: the adapter's own name, {name}, "
            "stands in it"
        )
        return fact, "save it with save_pretrained of peft, which leaves the name out"
    if not first.startswith(PREFIX) and f"{stem}.weight" in base:
        return (
            f"the adapter's {first} has no place in the model: {PREFIX} is missing before it",
            "save it with save_pretrained of peft",
        )
    return None


def _end(module: str) -> str:
    """Return a name from the layers on, which a larger model around a language model has too."""
    _, layers, after = module.rpartition("layers.")
    return f"{layers}{after}" if layers else module.rpartition(".")[2]


def _is_renamed(module: str) -> bool:
    """Return whether transformers may give these modules other names than the file does."""
    return ".experts." in module
