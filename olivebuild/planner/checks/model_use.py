"""Checks of a model's use: faults of what a node is to make of the model.

The model itself is checked in model_folder.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from olivebuild.api.node import Node
from olivebuild.core.host import installed
from olivebuild.formats import template_clock
from olivebuild.formats.conversions import known_to_fail
from olivebuild.formats.model_config import (
    LIBRARIES,
    TOKENIZER_FILES,
    ModelFinding,
    architecture_of,
    architectures_of_builder,
    context_of,
    full_precision_hint,
    is_there,
    methods_of_builder,
    quantised_by,
    text_config,
    types_of_peft,
)
from olivebuild.formats.structure.model import has_experts
from olivebuild.planner.checks.model_folder import ModelFolder
from olivebuild.steps.parts.sequences import DEFAULT_LENGTH, JOINED

IN_4_BITS = ("qlora", "loftq")
"""Methods of training that quantise the base."""

OLDEST_BUILDER = (0, 18)
"""The onnxruntime-genai whose model builder is called; those for DirectML are older."""


def findings(
    model: ModelFolder, node: Node, name: str, chats: Sequence[str] = (), *, trusts: bool
) -> list[ModelFinding]:
    """Return the faults of making `node` from a model that is called `name`.

    Faults of the model itself come alone. `chats`: the data sets whose rows the node has rendered
    by the model's chat template. `trusts`: code that comes with the model may run.
    """
    model_findings = model.findings(trusts=trusts)
    if any(finding.fails for finding in model_findings):
        return model_findings
    # Code of the model's own may bring a tokenizer that no file shows.
    tokenizer_findings = () if trusts else _check_tokenizer(model, node, chats)
    return [*model_findings, *_check_use(model, node, name, trusts), *tokenizer_findings]


def _check_use(model: ModelFolder, node: Node, name: str, trusts: bool) -> Iterator[ModelFinding]:
    method = quantised_by(model.config)
    if method and node.kind == "merged":
        yield ModelFinding(f"the base model is quantised ({method})", full_precision_hint(name))
    elif method and node.kind != "onnx":
        yield from _check_loading_quantised(model, method)
    if node.kind == "adapter":
        yield from _check_training(model, node, method)
    if node.kind == "onnx":
        yield from _check_conversion(model, node, method)
    if node.kind == "moments":
        yield from _check_moments(model, method, trusts)


def _check_tokenizer(
    model: ModelFolder, node: Node, chats: Sequence[str]
) -> Iterator[ModelFinding]:
    """Yield the lack of a tokenizer or chat template.

    A merge needs neither, and an adapter from elsewhere may bring its own.
    """
    if node.kind == "merged" or node.source:
        return
    if not any(any(model.path.glob(pattern)) for pattern in TOKENIZER_FILES):
        hint = "take tokenizer.json and tokenizer_config.json from where the model came from"
        yield ModelFinding("the model's folder has no tokenizer", hint, of_model=True)
    elif node.kind == "adapter" and chats:
        with contextlib.suppress(OSError):
            if not any(template_clock.templates_in(template_clock.files_of(model.path))):
                fact = (
                    f"the model has no chat template, by which the rows of {chats[0]} are rendered"
                )
                hint = (
                    "write the turns out with prompt and completion, or put a chat_template.jinja "
                    "into the model's folder"
                )
                yield ModelFinding(fact, hint, ("data",))


def _check_loading_quantised(model: ModelFolder, method: str) -> Iterator[ModelFinding]:
    """Yield the faults for which transformers can't load a quantised model."""
    missing = [name for name in LIBRARIES.get(method, ()) if not is_there(name)]
    if missing:
        fact = (
            f"the base model is quantised ({method}), and transformers needs "
            f"{' and '.join(missing)} to load it, not installed here"
        )
        hint = f"name the full-precision model, or `pip install {' '.join(missing)}`"
        yield ModelFinding(fact, hint)
    elif method == "bitsandbytes" and model.has_plain_weights():
        fact = (
            f"the base model is quantised ({method}), as config.json says, and its weights are not"
        )
        hint = (
            "leave quantization_config out of config.json, or name the folder that config.json "
            "belongs to"
        )
        yield ModelFinding(fact, hint)


def _check_training(model: ModelFolder, node: Node, method: str) -> Iterator[ModelFinding]:
    if method and node.fields.get("method") == "qlora":
        yield from _check_quantised_twice(model, node, method)
    if method and node.fields.get("method") == "loftq":
        fact = f"method: loftq needs the base's own weights, and it is quantised ({method})"
        hint = "name the full-precision model, or write method: qlora"
        yield ModelFinding(fact, hint, ("method",))
    if node.fields.get("method") in IN_4_BITS and not is_there("bitsandbytes"):
        fact = f"method: {node.fields['method']} needs bitsandbytes, not installed here"
        yield ModelFinding(fact, "`pip install bitsandbytes`, or write method: lora", ("method",))
    if node.fields.get("aware"):
        yield from _check_aware(model, node, method)
    yield from _check_modules(model, node)
    yield from _check_layers(model, node)
    context = context_of(model.config)
    length = node.fields.get("training", {}).get("max_length")
    if problem := _check_sequences(node, context):
        yield problem
    elif context and isinstance(length, int) and length > context:
        yield ModelFinding(
            f"max_length {length} is more than the {context} tokens that the model takes",
            f"a row that is longer than {context} tokens fails the training",
            ("training", "max_length"),
            fails=False,
        )


def _check_aware(model: ModelFolder, node: Node, method: str) -> Iterator[ModelFinding]:
    """Yield the faults for which training can't see a model's weights as they are rounded."""
    if method:
        fact = f"`aware` rounds the base's own weights, and it is quantised ({method})"
        yield ModelFinding(fact, "name the full-precision model, or leave `aware` out", ("aware",))
        return
    for finding in _check_conversion(model, node, method):
        yield finding._replace(field=("aware",))


def _check_sequences(node: Node, context: int | None) -> ModelFinding | None:
    """Return the fault of sequences that are longer than what the model takes, if they are.

    The last sequence that `remainder: keep` leaves shorter may be the only one.
    """
    sequences = node.fields.get("sequences", {})
    sequences = sequences if isinstance(sequences, dict) else {"form": sequences}
    form = sequences.get("form", "rows")
    length = node.fields.get("training", {}).get("max_length", DEFAULT_LENGTH)
    if not context or form not in JOINED or length <= context:
        return None
    return ModelFinding(
        f"sequences of {length} tokens are more than the {context} that the model takes",
        f"training.max_length: {context}",
        ("training", "max_length"),
        fails=form == "random-blocks" or sequences.get("remainder", "keep") != "keep",
    )


def _check_modules(model: ModelFolder, node: Node) -> Iterator[ModelFinding]:
    """Yield the lack of a choice of peft's for a model, where the recipe leaves it to peft."""
    if node.fields.get("modules") != "peft-default":
        return
    model_type, types = model.config.get("model_type"), types_of_peft()
    if types and model_type not in types:
        fact = f"peft {installed('peft')} has no modules of its own choice for {model_type}"
        hint = "list them in `modules`, or leave it out: all linear layers but the head"
        yield ModelFinding(fact, hint, ("modules",))


def _check_layers(model: ModelFolder, node: Node) -> Iterator[ModelFinding]:
    """Yield the fault of an adapter for a layer that the model does not have."""
    count, layers = text_config(model.config).get("num_hidden_layers"), node.fields.get("layers")
    if layers and isinstance(count, int) and max(layers) >= count:
        fact = f"the model has no layer {max(layers)}"
        yield ModelFinding(fact, f"its layers are 0 to {count - 1}", ("layers",))


def _check_quantised_twice(model: ModelFolder, node: Node, method: str) -> Iterator[ModelFinding]:
    """Yield the fault of QLoRA on a base that is stored in another quantisation."""
    stored = model.config["quantization_config"]
    in_4bit = stored.get("load_in_4bit") or stored.get("_load_in_4bit")
    if method != "bitsandbytes" or not in_4bit:
        fact = f"method: qlora quantises the base, which is quantised already ({method})"
        yield ModelFinding(
            fact, "name the full-precision model, or write method: lora", ("method",)
        )
        return
    options = node.fields.get("quantisation", {})
    # The defaults of the field, and of transformers' BitsAndBytesConfig.
    wanted_type, wanted_double = options.get("type", "nf4"), options.get("double", True)
    stored_type = stored.get("bnb_4bit_quant_type", "fp4")
    stored_double = bool(stored.get("bnb_4bit_use_double_quant", False))
    if (wanted_type, wanted_double) != (stored_type, stored_double):
        # transformers takes what is stored, and the adapter's folder would say otherwise.
        text = f"{{type: {stored_type}, double: {str(stored_double).lower()}}}"
        fact = f"the base is stored in 4 bits as {text}, and `quantisation` says otherwise"
        field = ("quantisation",) if options else ("method",)
        yield ModelFinding(fact, f"quantisation: {text}, or name the full-precision model", field)


def _check_conversion(model: ModelFolder, node: Node, method: str) -> Iterator[ModelFinding]:
    """Yield the fault for which the model builder of onnxruntime-genai can't convert the model."""
    architecture, version = architecture_of(model.config), installed("onnxruntime-genai")
    architectures, methods = architectures_of_builder(), methods_of_builder()
    if version and _is_older(version, OLDEST_BUILDER):
        oldest = ".".join(map(str, OLDEST_BUILDER))
        fact = (
            f"the model builder of onnxruntime-genai {version} is too old: {oldest} is the oldest"
        )
        yield ModelFinding(
            fact, "convert it where olivebuild[build] or olivebuild[cuda] is installed"
        )
    elif architectures and architecture not in architectures:
        fact = f"the model builder (onnxruntime-genai {version}) does not know {architecture}"
        hint = (
            "a merge of it can be built and used with transformers; a later onnxruntime-genai may "
            "know it"
        )
        yield ModelFinding(fact, hint)
    elif reason := known_to_fail(model.config, node.fields.get("precision", "int4")):
        yield reason
    elif method and methods and method not in methods:
        fact = (
            f"the model builder (onnxruntime-genai {version}) does not read weights that are "
            f"quantised by {method}"
        )
        hint = f"name the full-precision model; it reads {', '.join(sorted(methods))}"
        yield ModelFinding(fact, hint)


def _check_moments(model: ModelFolder, method: str, trusts: bool) -> Iterator[ModelFinding]:
    """Yield the fault for which a model's weights can't be rounded by their inputs."""
    if has_experts(model.config):
        fact = "the model is a mixture of experts, whose inputs algorithm: gptq does not tell apart"
        yield ModelFinding(fact, "leave `algorithm` and `calibration` out", ("algorithm",))
    elif method:
        fact = f"algorithm: gptq rounds full-precision weights, and these are quantised ({method})"
        yield ModelFinding(fact, "name the full-precision model", ("algorithm",))
    elif trusts:
        fact = "the model runs code of its own (trust_remote_code), which calibration does not run"
        yield ModelFinding(fact, "leave `algorithm` and `calibration` out", ("algorithm",))


def _is_older(version: str, oldest: tuple[int, int]) -> bool:
    """Return whether a version such as 0.13.2 is below another."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    return tuple(numbers) < oldest
