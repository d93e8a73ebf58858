"""What the small files of a model's folder tell before anything runs: what can't be made of it here, and why.

Only JSON and the source text of the installed libraries are read, and the headers of weights: nothing heavy is imported, and no code
of the folder runs. What can't be told is left to the steps.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from olivebuild import digest
from olivebuild.errors import InputError, Where
from olivebuild.graph import Graph
from olivebuild.node import Node
from olivebuild.plan import Plan, Planner, Verdict
from olivebuild.scan import installed
from olivebuild.tensors import WHOLE, ignored_weights, tensors_of, weight_files

Config = Mapping[str, Any]
OF_MODELS = ("adapter", "merged", "onnx", "benchmark-accuracy", "benchmark-check", "benchmark-latency")
"""The kinds of nodes that read a model's folder."""
ROLES = ("model", "base", "source")


class Finding(NamedTuple):
    """A fact about a model, or about what is to be made of it. `of_model`: true of whatever is made; `fails`: it can't be made."""

    fact: str
    hint: str
    field: tuple[str | int, ...] = ()
    of_model: bool = False
    fails: bool = True


class Problem(NamedTuple):
    """A finding with the place in the recipe that it is about, and the nodes that can't run for it."""

    target: str
    where: Where
    fact: str
    hint: str
    nodes: tuple[str, ...]
    fails: bool

    def to_json(self) -> dict[str, str]:
        return {"target": self.target, "where": str(self.where), "fact": self.fact, "hint": self.hint}

    def error(self) -> InputError:
        return InputError(self.fact, where=self.where, hint=self.hint, target=self.target)


def problems(planner: Planner, plan: Plan) -> list[Problem]:
    """What is known to go wrong with the nodes that would run, inputs first; each fact about a model once."""
    graph, found = planner.graph, dict[tuple[Path, str], Problem]()
    looks: dict[Path, Look] = {}
    for name, state in plan.states.items():
        if state.verdict not in (Verdict.STALE, Verdict.WAITING) or state.node.kind not in OF_MODELS:
            continue
        for edge, source, _ in graph.inputs.get(name, ()):
            origin = origin_of(graph, plan, source, planner.scan.recipe.folder) if edge.role.partition("[")[0] in ROLES else None
            if origin is None:
                continue
            model, folder = origin
            if folder not in looks:
                looks[folder] = Look(folder, planner.workspace.memo.digest)
            trained_on = _trained_on(graph, name, planner.scan.recipe.folder) or (model.source.name if model.source else "")
            for finding in looks[folder].findings(state.node, trained_on, trusts=any_trusts(graph, source)):
                target, field = (model.target, ("source",)) if finding.of_model else (state.node.target, finding.field or edge.field)
                before = found.get((folder, finding.fact))
                where = before.where if before else planner.scan.recipe.where(target, field)
                nodes = (*(before.nodes if before else ()), name)
                found[folder, finding.fact] = Problem(before.target if before else target, where, *finding[:2], nodes, finding.fails)
    return _without_repeats(found)


def _without_repeats(found: Mapping[tuple[Path, str], Problem]) -> list[Problem]:
    """A fact that begins with another one about the same model goes with it: `it is quantised`, `it is quantised, and can't be loaded`."""
    result: dict[tuple[Path, str], Problem] = {}
    for (folder, fact), problem in found.items():
        short = min((f for at, f in found if at == folder and fact.startswith(f) and found[at, f].fails == problem.fails), key=len)
        first = result.get((folder, short), found[folder, short])
        result[folder, short] = first._replace(nodes=tuple(dict.fromkeys((*first.nodes, *problem.nodes))))
    return list(result.values())


def origin_of(graph: Graph, plan: Plan, node: Node, recipe_folder: Path) -> tuple[Node, Path] | None:
    """The model that a node is or is merged from, and its folder; None where that is not on this disk yet, or comes from a GGUF file."""
    if node.kind not in ("model", "merged"):
        return None
    state = plan.states.get(node.name)
    folder = recipe_folder / node.lies_at if node.lies_at is not None else state.folder if state and state.verdict is Verdict.FRESH else None
    if folder is not None and (folder / "config.json").is_file():
        return node, folder
    inner = next((source for edge, source, _ in graph.inputs.get(node.name, ()) if edge.role == "model"), None)
    return origin_of(graph, plan, inner, recipe_folder) if inner else None


def _trained_on(graph: Graph, name: str, recipe_folder: Path) -> str:
    """What the adapter that a node merges says it was trained on, if it was brought from a folder; else empty."""
    sources = [source.source for edge, source, _ in graph.inputs.get(name, ()) if edge.role == "adapter"]
    file = next((recipe_folder / s.name / "adapter_config.json" for s in sources if s and s.scheme == "file"), None)
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        if file and file.is_file():
            return str(json.loads(file.read_text("utf-8")).get("base_model_name_or_path") or "")
    return ""


def any_trusts(graph: Graph, node: Node) -> bool:
    return node.trusts or any(any_trusts(graph, source) for edge, source, _ in graph.inputs.get(node.name, ()) if edge.role == "model")


# -- one folder


class Look:
    """A model folder's small files, each read once. `memo` remembers by a file's stat what was computed from it."""

    def __init__(self, folder: Path, memo: Callable[..., str] | None = None) -> None:
        self.folder = folder
        self._memo = memo
        self._own: dict[bool, list[Finding]] = {}
        try:
            self.config = read_config(folder)
            self.malformed = ""
        except (OSError, ValueError, RecursionError) as e:
            self.config, self.malformed = {}, str(e)

    def findings(self, node: Node, name: str, *, trusts: bool) -> list[Finding]:
        """What is wrong with making the node from this folder, whose model has that name. What is wrong with the model itself comes alone."""
        if trusts not in self._own:
            self._own[trusts] = list(self._of_model(trusts=trusts))
        own = self._own[trusts]
        if any(f.fails for f in own):
            return own
        return [*own, *self._of_use(node, name)]

    def _of_model(self, *, trusts: bool) -> Iterator[Finding]:
        if self.malformed:
            yield Finding(f"config.json can't be read: {self.malformed}", "is the download complete?", of_model=True)
            return
        if not architecture_of(self.config):
            hint = 'add the class that the model was saved from, such as "architectures": ["LlamaForCausalLM"]'
            yield Finding("config.json names no `architectures`", hint, of_model=True)
            return
        if not trusts and (finding := _unknown_to_transformers(self.config)):
            yield finding
            return
        yield from self._ignored()
        yield from self._vocabulary()

    def _ignored(self) -> Iterator[Finding]:
        with contextlib.suppress(OSError, InputError):
            if ignored := ignored_weights(self.folder):
                fact = f"{', '.join(ignored[:3])}{' ...' if len(ignored) > 3 else ''} in the model's folder will be ignored"
                hint = f"loaders read {', '.join(weight_files(self.folder).names[:3])}"
                yield Finding(fact, hint, of_model=True, fails=False)

    def _vocabulary(self) -> Iterator[Finding]:
        rows, said = self._embedding_rows(), text_config(self.config).get("vocab_size")
        if rows and isinstance(said, int) and said != rows:
            hint = "one of the two was changed without the other; save the model again with save_pretrained"
            yield Finding(f"config.json says vocab_size {said}, and the model's embedding has {rows} rows", hint, of_model=True)
            return
        rows = rows or (said if isinstance(said, int) else 0)
        last = self._last_tokens()
        beyond = [content for number, content in last if number >= rows] if rows else []
        if not beyond:
            return
        if all(PLACEHOLDER.fullmatch(content) for content in beyond):
            # Gemma-3-1b is published like this: a place for pictures that a model of texts has no embedding for.
            return
        fact = f"the tokenizer has {last[0][0] + 1} tokens, the model's embedding {rows}"
        hint = f"{beyond[-1]!r} has no embedding: enlarge it (model.resize_token_embeddings) and save the model, or take the tokenizer it came with"
        yield Finding(fact, hint, of_model=True)

    def _embedding_rows(self) -> int:
        """How many rows the embedding's tensor has, by the header of its file; 0 where that is not plain."""
        index = self.folder / f"{WHOLE}.index.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
            file = WHOLE
            if not (self.folder / WHOLE).is_file():
                names = json.loads(index.read_text("utf-8"))["weight_map"]
                file = next(file for name, file in names.items() if name.endswith(EMBEDDINGS))
            return int(self._remembered(self.folder / Path(file).name, _rows_in, "embedding rows") or 0)
        return 0

    def _last_tokens(self) -> list[tuple[int, str]]:
        """The tokens of the highest numbers, the highest first."""
        file = self.folder / "tokenizer.json"
        found: dict[int, str] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            if file.is_file():
                found |= {int(number): content for number, content in json.loads(self._remembered(file, _last_in, "last tokens"))}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            more = json.loads((self.folder / "tokenizer_config.json").read_text("utf-8")).get("added_tokens_decoder", {})
            found |= {int(number): str(token["content"]) for number, token in more.items()}
        return sorted(found.items(), reverse=True)

    def _remembered(self, file: Path, compute: Callable[[Path, digest.Count], str], flavour: str) -> str:
        return self._memo(file, compute, flavour) if self._memo else compute(file, digest.nobody)

    def _of_use(self, node: Node, name: str) -> Iterator[Finding]:
        method = quantised_by(self.config)
        if method and node.kind == "merged":
            full = re.sub(r"(-unsloth)?-bnb-4bit$", "", name)
            example = f", here probably hf:{full}" if full != name else ""
            hint = f"name the full-precision model{example}: an adapter merged into quantised weights loses what it learnt"
            yield Finding(f"the base model is quantised ({method})", hint)
        elif method and node.kind != "onnx":
            yield from self._loaded_quantised(method)
        if node.kind == "adapter":
            yield from self._trained(node, method)
        if node.kind == "onnx":
            yield from self._converted(node, method)

    def _loaded_quantised(self, method: str) -> Iterator[Finding]:
        """What transformers takes to load a quantised model."""
        missing = [name for name in LIBRARIES.get(method, ()) if not _is_there(name)]
        if missing:
            names = " and ".join(missing)
            fact = f"the base model is quantised ({method}), and transformers needs {names} to load it, not installed here"
            yield Finding(fact, f"name the full-precision model, or `pip install {' '.join(missing)}`")
        elif method == "bitsandbytes" and self._is_plain():
            fact = f"the base model is quantised ({method}), as config.json says, and its weights are not"
            yield Finding(fact, "leave quantization_config out of config.json, or name the folder that config.json belongs to")

    def _is_plain(self) -> bool:
        """No tensor of the (first) weight file is of whole numbers, as quantised ones are."""
        with contextlib.suppress(OSError, InputError):
            file = next((f for f in (self.folder / WHOLE, *sorted(self.folder.glob("*.safetensors"))) if f.is_file()), None)
            return file is not None and self._remembered(file, _kinds_in, "kinds of tensors") == "float"
        return False

    def _trained(self, node: Node, method: str) -> Iterator[Finding]:
        if method and node.fields.get("method") == "qlora":
            yield from self._quantised_twice(node, method)
        context, length = context_of(self.config), node.fields.get("training", {}).get("max_length")
        if context and isinstance(length, int) and length > context:
            fact = f"max_length {length} is more than the {context} tokens that the model takes"
            yield Finding(fact, f"a row that is longer than {context} tokens fails the training", ("training", "max_length"), fails=False)

    def _quantised_twice(self, node: Node, method: str) -> Iterator[Finding]:
        stored = self.config["quantization_config"]
        if method != "bitsandbytes" or not (stored.get("load_in_4bit") or stored.get("_load_in_4bit")):
            fact = f"method: qlora quantises the base, which is quantised already ({method})"
            yield Finding(fact, "name the full-precision model, or write method: lora", ("method",))
            return
        given = node.fields.get("quantisation", {})
        wanted = {"type": given.get("type", "nf4"), "double": given.get("double", True)}
        found = {"type": stored.get("bnb_4bit_quant_type", "fp4"), "double": bool(stored.get("bnb_4bit_use_double_quant", False))}
        if wanted != found:
            # transformers takes what is stored, and the adapter's folder would say otherwise.
            told = f"{{type: {found['type']}, double: {str(found['double']).lower()}}}"
            fact = f"the base is stored in 4 bits as {told}, and `quantisation` says otherwise"
            field = ("quantisation",) if given else ("method",)
            yield Finding(fact, f"quantisation: {told}, or name the full-precision model", field)

    def _converted(self, node: Node, method: str) -> Iterator[Finding]:
        architecture, version = architecture_of(self.config), installed("onnxruntime-genai")
        known, readers = architectures_of_builder(), methods_of_builder()
        if known and architecture not in known:
            fact = f"the model builder (onnxruntime-genai {version}) does not know {architecture}"
            hint = "a merge of it can be built and used with transformers; a later onnxruntime-genai may know it"
            yield Finding(fact, hint)
        elif reason := known_to_fail(self.config, node.fields.get("precision", "int4")):
            yield reason
        elif method and readers and method not in readers:
            fact = f"the model builder (onnxruntime-genai {version}) does not read weights that are quantised by {method}"
            yield Finding(fact, f"name the full-precision model; it reads {', '.join(sorted(readers))}")


EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
PLACEHOLDER = re.compile(r"<\|?(start_of_|end_of_)?(image|audio|video|vision)[a-z_]*\|?>")
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
}
"""What transformers imports for each method of quantisation, see transformers/quantizers/."""
LAST = 64


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises OSError or ValueError."""
    found = json.loads((folder / "config.json").read_text("utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def text_config(config: Config) -> dict[str, Any]:
    """The configuration with that of its language model in it, where it has one of its own."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else dict(config)


def architecture_of(config: Config) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def quantised_by(config: Config) -> str:
    """The method of quantisation; empty for a model that is not quantised."""
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return ""
    given = found.get("quant_method") or ("bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else "unknown")
    return str(given)


def context_of(config: Config) -> int | None:
    """How many tokens the model takes, prompt and answer together; None where it does not say."""
    text = text_config(config)
    found = next((text[name] for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len") if text.get(name)), None)
    return found if isinstance(found, int) else None


# -- what a file holds, as text that can be remembered


class _Added(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]] = {}


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []


def _last_in(file: Path, _count: digest.Count) -> str:
    """The last tokens of a tokenizer.json, as JSON: number and content."""
    try:
        tokenizer = msgspec.json.decode(file.read_bytes(), type=_Tokenizer)
    except msgspec.MsgspecError:
        # A kind of tokenizer that is written otherwise; whoever loads it tells whether it is one.
        return "[]"
    vocabulary = tokenizer.model.vocab
    found = {i: piece[0] for i, piece in enumerate(vocabulary)} if isinstance(vocabulary, list) else {i: text for text, i in vocabulary.items()}
    found |= {token.id: token.content for token in tokenizer.added_tokens}
    return json.dumps(sorted(found.items(), reverse=True)[:LAST])


def _rows_in(file: Path, _count: digest.Count) -> str:
    found = [t for t in tensors_of(file) if t.name.endswith(EMBEDDINGS) and len(t.shape) == 2 and t.dtype in ("F32", "F16", "BF16")]
    return str(found[0].shape[0]) if len(found) == 1 else ""


def _kinds_in(file: Path, _count: digest.Count) -> str:
    return "float" if all(t.dtype in ("F64", "F32", "F16", "BF16") for t in tensors_of(file)) else "whole"


# -- what the installed libraries know, from their source


def _is_there(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


@cache
def _source(library: str, *path: str) -> str:
    """The text of a file of an installed library, which is not imported; empty where there is none."""
    with contextlib.suppress(ImportError, ValueError, OSError, UnicodeDecodeError):
        spec = importlib.util.find_spec(library)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (file := Path(folder, *path)).is_file():
                return file.read_text("utf-8")
    return ""


@cache
def architectures_of_builder() -> frozenset[str]:
    """The architectures that the installed model builder names; empty where it is not written as expected."""
    return frozenset(re.findall(r"""config\.architectures\[0\] == ["'](\w+)["']""", _source("onnxruntime_genai", "models", "builder.py")))


@cache
def methods_of_builder() -> frozenset[str]:
    """The methods of quantisation that the installed model builder reads; empty where it is not written as expected."""
    text = _source("onnxruntime_genai", "models", "loaders", "quant_model.py")
    found = re.findall(r"""quant_type == ["']([\w-]+)["']""", text)
    found += [name for group in re.findall(r"quant_type in [{(\[]([^})\]]*)", text) for name in re.findall(r"""["']([\w-]+)["']""", group)]
    return frozenset(found)


FEWEST = 20
"""A mapping with fewer names than that was not read rightly."""


@cache
def types_of_transformers() -> tuple[dict[str, str], frozenset[str]]:
    """(model type -> class of its configuration, model types with a causal language model) of the installed transformers.

    Empty where they are not written as expected.
    """
    configured: dict[str, str] = {}
    for name in ("auto_mappings.py", "configuration_auto.py"):
        found = re.findall(r'(?:\(\s*"([^"]+)",\s*|"([^"]+)": )"(\w+Config)"', _source("transformers", "models", "auto", name))
        configured |= {first or second: kind for first, second, kind in found}
    modeling = _source("transformers", "models", "auto", "modeling_auto.py")
    block = re.search(r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict\((.*?)^\)", modeling, re.DOTALL | re.MULTILINE)
    causal = set(re.findall(r'\(\s*"([^"]+)",\s*[("]', block[1])) if block else set()
    return (configured if len(configured) > FEWEST else {}, frozenset(causal) if len(causal) > FEWEST else frozenset())


def _unknown_to_transformers(config: Config) -> Finding | None:
    """Why the installed transformers can't load the model without code of the folder's own; None if it can."""
    configured, causal = types_of_transformers()
    kind, own = str(config.get("model_type") or ""), config.get("auto_map")
    if not kind or not configured or not causal:
        return None
    # transformers goes by the class of the configuration.
    if kind in configured and (kind in causal or configured[kind] in {configured.get(name) for name in causal}):
        return None
    version = f"transformers {installed('transformers')}"
    fact = f"{version} does not know {architecture_of(config)} (model_type {kind})"
    if isinstance(own, dict) and "AutoModelForCausalLM" in own:
        hint = "trust_remote_code: true on the model would let it run its own code: read its .py files first"
        return Finding(f"{fact}, and code that comes with the model is refused", hint, of_model=True)
    if kind in configured:
        fact = f"{architecture_of(config)} (model_type {kind}) is not a causal language model of {version}"
        return Finding(fact, "name a model that continues text", of_model=True)
    return Finding(fact, "another version of transformers may know it", of_model=True)


# -- conversions that are known to fail, or to be wrong


class Known(NamedTuple):
    """An architecture that versions of the model builder can't convert. `applies`: to which configurations; `builder`: versions that were tried."""

    architectures: tuple[str, ...]
    builder: tuple[str, ...]
    applies: Callable[[Config], bool]
    happens: str
    because: str
    works: str
    precisions: tuple[str, ...] = ()
    """Which of the conversions; all, if none is named."""


def _has_layers_without_rope(config: Config) -> bool:
    text = text_config(config)
    layers = text.get("no_rope_layers")
    if isinstance(layers, list):
        return not all(layers)
    # What transformers makes of it: each layer of that number has no rotary positions.
    every, count = text.get("no_rope_layer_interval", 4), text.get("num_hidden_layers", 36)
    return isinstance(every, int) and isinstance(count, int) and 0 < every <= count


def _has_state_layers(config: Config) -> bool:
    return "mamba" in (text_config(config).get("layer_types") or ())


def _is_stored_in_16_bits(config: Config) -> bool:
    inner = text_config(config)
    return (inner.get("dtype") or inner.get("torch_dtype")) in ("bfloat16", "float16")


KNOWN_TO_FAIL = (
    Known(
        ("GemmaForCausalLM", "Gemma2ForCausalLM", "NemotronForCausalLM"),
        ("0.18.0",),
        _is_stored_in_16_bits,
        "rounds what it should not (logits differ by a thousandth of their spread)",
        "their norms multiply with 1 + weight, and the builder keeps that sum in 16 bits",
        "onnxruntime-genai 0.18.0 with precision: int4, where that is below what 4 bits cost",
        ("fp32",),
    ),
    Known(
        ("GptOssForCausalLM",),
        ("0.18.0",),
        lambda config: quantised_by(config) != "mxfp4",
        "ends in RuntimeError: Original GPT-OSS MXFP4 tensor ... was not found (models/builders/gptoss.py)",
        "for 4 bits the builder takes the experts' weights as they were published, in MXFP4, and a merge has them in full precision",
        "onnxruntime-genai 0.18.0 with precision: fp32; a merge of it can be used with transformers",
        ("int4",),
    ),
    Known(
        ("GraniteMoeHybridForCausalLM",),
        ("0.17.1", "0.18.0"),
        _has_state_layers,
        "ends in AttributeError: 'NoneType' object has no attribute 'q_proj' (models/builders/granite.py)",
        "it has Mamba layers, and the builder knows those with attention alone",
        "none that was tried; a merge of it can be used with transformers",
    ),
    Known(
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        ("0.17.1", "0.18.0"),
        lambda _: True,
        "looks for 'rope_type', which is not there (models/builders/base.py, make_rope_init)",
        "transformers from 5.0 on keeps the rotary parameters of Gemma-3 by the type of layer, and the builder looks for those of all layers",
        "onnxruntime-genai 0.13.2 with transformers 4.57.6, in an environment of its own; a merge of it can be used with transformers",
    ),
    Known(
        ("SmolLM3ForCausalLM",),
        ("0.17.1", "0.18.0"),
        _has_layers_without_rope,
        "looks for 'position_ids', which is not there (models/builders/base.py, make_attention_qk_rope), and for dml rotates what must not be",
        "it has layers without rotary positions, and the builder gives these a rotation of their own",
        "none that was tried (0.10.0 converts it without complaint, and wrongly); a merge of it can be used with transformers",
    ),
    Known(
        ("OlmoForCausalLM",),
        ("0.18.0",),
        lambda _: True,
        "writes a model of other answers (logits differ by a tenth of their spread in fp32)",
        "the layer norms of OLMo-1 subtract the mean, and the builder writes them as RMS norms (models/builders/olmo.py)",
        "none that was tried; a merge of it can be used with transformers",
    ),
)


def known_to_fail(config: Config, precision: object) -> Finding | None:
    """What the installed model builder is known to do wrong with such a model; None if nothing."""
    architecture, version = architecture_of(config), installed("onnxruntime-genai")
    for known in KNOWN_TO_FAIL:
        meant = not known.precisions or precision in known.precisions
        if meant and architecture in known.architectures and version in known.builder and known.applies(config):
            fact = f"the model builder (onnxruntime-genai {version}, transformers {installed('transformers')}) can't convert {architecture}"
            return Finding(f"{fact}: it {known.happens}, because {known.because}", f"versions that work: {known.works}")
    return None
