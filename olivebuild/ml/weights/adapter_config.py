"""What an adapter's configuration and the names of its tensors say about merging it: without torch,
before any work starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from olivebuild.ml.weights.view import Weight

PREFIX = "base_model.model."
MERGEABLE = {
    "ADALORA", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA",
    "IA3", "LN_TUNING", "LOHA", "LOKR",
    "LORA", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA",
    "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA",
    "VBLORA", "VERA", "WAVEFT",
}  # fmt: skip
"""Types of adapters whose effect peft can write into the base's weights; for all but LORA a
comparison of logits is the only proof.
"""
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that neither change the base nor matter once the trained weights are
loaded.
"""
FOUND_AGAIN = ("pissa", "olora", "mica")
"""Those that peft computes again from the base's weights, and takes off them, whenever the adapter
is loaded.
"""
CONVERT = (
    "save it converted, as a plain LoRA adapter: save_pretrained(FOLDER, "
    "path_initial_model_for_weight_conversion=...)"
)

Refusal = tuple[str, str]
"""Fact and hint."""


def why_unusable(config: dict[str, Any]) -> Refusal | None:
    """Why nobody can load an adapter as it was trained, or merge it into anything."""
    method = config.get("peft_type")
    if method not in MERGEABLE:
        return (
            f"a {method} adapter can't be merged",
            "it has no counterpart in the base's weights; train a LoRA adapter instead",
        )
    if method != "LORA":
        return None
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
    if start is not None and start not in PLAIN_STARTS and name not in FOUND_AGAIN:
        others = ", ".join(str(s) for s in (*PLAIN_STARTS[2:], *FOUND_AGAIN))
        return f"init_lora_weights: {start} is not known", f"known are true, false, {others}"
    if config.get("megatron_config") or config.get("arrow_config"):
        name = "megatron_config" if config.get("megatron_config") else "arrow_config"
        return (
            f"the adapter sets {name}, which needs more than its own folder",
            "save it as a plain LoRA adapter",
        )
    return None


def why_unmergeable(
    config: dict[str, Any], tensors: Iterable[Weight], base: dict[str, Weight]
) -> Refusal | None:
    """Why an adapter that works beside its base can't become part of it, or does not fit it."""
    given = {w.name: w for w in tensors}
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
    for name in sorted(given):
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
    return _grown(given, base) or _misnamed(given, base)


def _grown(given: dict[str, Weight], base: dict[str, Weight]) -> Refusal | None:
    for name, weight in sorted(given.items()):
        own = base.get(
            name.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        )
        if (
            own
            and len(own.shape) == 2
            and weight.shape[1:] == own.shape[1:]
            and weight.shape != own.shape
            and ".lora_" not in name
        ):
            module = name.removeprefix(PREFIX).removesuffix(".weight").removesuffix(".base_layer")
            fact = (
                f"the adapter's {module} has {weight.shape[0]} rows, the base's {own.shape[0]}: "
                "tokens were added before training"
            )
            hint = (
                f"name a base with the same tokens: resize_token_embeddings({weight.shape[0]}), "
                "then "
                "save it with the adapter's tokenizer"
            )
            return fact, hint
    return None


def _misnamed(given: dict[str, Weight], base: dict[str, Weight]) -> Refusal | None:
    """LoRA's tensors none of which names a weight of the base: what is different about the
    names.
    """
    lora = sorted(name for name in given if ".lora_A." in name)
    stems = [name.partition(".lora_A.")[0] for name in lora]
    if not lora:
        return None
    named = [
        stem
        for stem in stems
        if stem.startswith(PREFIX) and f"{stem.removeprefix(PREFIX)}.weight" in base
    ]
    first = lora[0]
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
            "stands "
            "in it"
        )
        return fact, "save it with save_pretrained of peft, which leaves the name out"
    if not first.startswith(PREFIX) and f"{stems[0]}.weight" in base:
        return (
            f"the adapter's {first} has no place in the model: {PREFIX} is missing before it",
            "save it with save_pretrained of peft",
        )
    if not named:
        wanted = stems[0].removeprefix(PREFIX)
        ends = [name for name in base if name.endswith(f".{_end(wanted)}.weight")]
        like = f"; the base has {sorted(ends)[0]}" if ends else ""
        if ends and not _is_renamed(wanted):
            return (
                f"the adapter's {first} has no place in the model{like}",
                "was it trained on a model of another class, one that reads images perhaps?",
            )
    return None


def _end(module: str) -> str:
    """From the layers on, which is alike in a language model and in a larger one around it."""
    _, found, after = module.rpartition("layers.")
    return f"{found}{after}" if found else module.rpartition(".")[2]


def _is_renamed(module: str) -> bool:
    """Whether transformers may give these modules other names than the file does."""
    return ".experts." in module
