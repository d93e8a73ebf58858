"""What can't be made of the models at hand, and why: told before anything runs, with the place in
the recipe.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from olivebuild.api.node import Node
from olivebuild.core import hashing
from olivebuild.core.errors import InputError, first_line
from olivebuild.core.fs.small_files import read_json
from olivebuild.core.host import installed
from olivebuild.formats import foreign, hub_cache, imported, not_a_model, template_clock
from olivebuild.formats.conversions import known_to_fail
from olivebuild.formats.foreign import Fault
from olivebuild.formats.model_config import (
    EMBEDDINGS,
    LIBRARIES,
    TOKENIZER_FILES,
    Config,
    Finding,
    architecture_of,
    architectures_of_builder,
    context_of,
    full_precision_hint,
    is_there,
    kinds_in,
    last_in,
    methods_of_builder,
    quantised_by,
    read_config,
    rows_in,
    text_config,
    unknown_to_transformers,
    without_embedding,
)
from olivebuild.formats.model_numbers import NUMBERS, not_numbers, sizes_in, too_many
from olivebuild.formats.model_signs import (
    made_for_something_else,
    methods_of_transformers,
    quantised_in,
)
from olivebuild.formats.safetensors import READ_FILES, WHOLE, ignored_weights, weight_files
from olivebuild.planner.checks.finding import PlanProblem
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict
from olivebuild.recipe.graph import Graph

OF_MODELS = (
    "adapter",
    "merged",
    "onnx",
    "benchmark-accuracy",
    "benchmark-check",
    "benchmark-latency",
)
"""The kinds of nodes that read a model's folder."""
ROLES = ("model", "base", "source")


def problems(planner: Planner, plan: Plan) -> list[PlanProblem]:
    """What is known to go wrong with the nodes that would run, inputs first; each fact about a
    model once.
    """
    graph, found = planner.graph, dict[tuple[Path, str], PlanProblem]()
    looks: dict[Path, Look] = {}
    for name, state in plan.states.items():
        if (
            state.verdict not in (Verdict.STALE, Verdict.WAITING)
            or state.node.kind not in OF_MODELS
        ):
            continue
        for edge, source, _ in graph.inputs.get(name, ()):
            origin = (
                origin_of(planner, plan, source) if edge.role.partition("[")[0] in ROLES else None
            )
            if origin is None:
                continue
            model, folder = origin
            if (there := plan.states.get(model.name)) and there.fault:
                # That is said first, and comes alone.
                continue
            if folder not in looks:
                looks[folder] = Look(folder, planner.workspace.memo.digest)
            trained_on = _trained_on(graph, name, planner.scan.recipe.folder) or (
                model.source.name if model.source else ""
            )
            # Rows that the model's own chat template renders.
            chats = [
                rows.target
                for _, rows, _ in graph.inputs[name]
                if rows.kind == "dataset" and {"user", "messages"} & rows.fields.keys()
            ]
            for finding in looks[folder].findings(
                state.node, trained_on, chats, trusts=any_trusts(graph, source)
            ):
                target, field = (
                    (model.target, ("source",))
                    if finding.of_model
                    else (state.node.target, finding.field or edge.field)
                )
                before = found.get((folder, finding.fact))
                where = before.where if before else planner.scan.recipe.where(target, field)
                nodes = (*(before.nodes if before else ()), name)
                found[folder, finding.fact] = PlanProblem(
                    before.target if before else target, where, *finding[:2], nodes, finding.fails
                )
    for name, target, fault in _imported_faults(plan, planner.scan.recipe.folder):
        where, folder = (
            planner.scan.recipe.where(target, ("source",)),
            planner.scan.recipe.folder / target,
        )
        found[folder, fault.fact] = PlanProblem(
            target, where, f"{fault.file}: {fault.fact}", foreign.HINT, (name,), True
        )
    return _without_repeats(found)


def _imported_faults(plan: Plan, recipe_folder: Path) -> Iterator[tuple[str, str, Fault]]:
    """Yield (node, target, fault) of the adapters and ONNX folders on this disk that are yet to be
    imported.
    """
    for name, state in plan.states.items():
        node, source = state.node, state.node.source
        waits = state.verdict.value in ("stale", "waiting")
        if (
            waits
            and source
            and source.scheme == "file"
            and node.kind in ("adapter", "onnx")
            and not node.trusts
        ):
            for fault in imported.faults(recipe_folder / source.name, node.kind):
                yield name, node.target, fault


def _without_repeats(found: Mapping[tuple[Path, str], PlanProblem]) -> list[PlanProblem]:
    """A fact that begins with another one about the same model goes with it: `it is quantised`, `it
    is quantised, and can't be loaded`.
    """
    result: dict[tuple[Path, str], PlanProblem] = {}
    for (folder, fact), problem in found.items():
        short = min(
            (
                f
                for at, f in found
                if at == folder and fact.startswith(f) and found[at, f].fails == problem.fails
            ),
            key=len,
        )
        first = result.get((folder, short), found[folder, short])
        result[folder, short] = first._replace(
            nodes=tuple(dict.fromkeys((*first.nodes, *problem.nodes)))
        )
    return list(result.values())


def origin_of(planner: Planner, plan: Plan, node: Node) -> tuple[Node, Path] | None:
    """The model that a node is or is merged from, and its folder; None where that is not on this
    disk yet, or comes from a GGUF file.
    """
    if node.kind not in ("model", "merged"):
        return None
    folder = _folder_of(planner, plan, node)
    if folder is not None and (folder / "config.json").is_file():
        return node, folder
    inner = next(
        (
            source
            for edge, source, _ in planner.graph.inputs.get(node.name, ())
            if edge.role == "model"
        ),
        None,
    )
    return origin_of(planner, plan, inner) if inner else None


def _folder_of(planner: Planner, plan: Plan, node: Node) -> Path | None:
    """Where the model's small files lie, if they do."""
    if node.lies_at is not None:
        return planner.scan.recipe.folder / node.lies_at
    state = plan.states.get(node.name)
    if state and state.verdict is Verdict.FRESH:
        return state.folder
    if (
        node.source
        and node.source.scheme == "hf"
        and node.name not in plan.small
        and (commit := planner.scan.pin(node))
    ):
        return hub_cache.small_files_of(node.source, commit)
    return plan.small.get(node.name)


def _trained_on(graph: Graph, name: str, recipe_folder: Path) -> str:
    """What the adapter that a node merges says it was trained on, if it was brought from a folder;
    else empty.
    """
    sources = [
        source.source for edge, source, _ in graph.inputs.get(name, ()) if edge.role == "adapter"
    ]
    file = next(
        (
            recipe_folder / s.name / "adapter_config.json"
            for s in sources
            if s and s.scheme == "file"
        ),
        None,
    )
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if file and file.is_file():
            return str(read_json(file).get("base_model_name_or_path") or "")
    return ""


def any_trusts(graph: Graph, node: Node) -> bool:
    return node.trusts or any(
        any_trusts(graph, source)
        for edge, source, _ in graph.inputs.get(node.name, ())
        if edge.role == "model"
    )


# -- one folder

SMALL = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""JSON objects beside config.json that loaders read where they are there."""


def _malformed(file: Path) -> str:
    """Why a file is no JSON object; empty where it is one, or where there is none."""
    try:
        return "" if isinstance(read_json(file), dict) else "it is not a JSON object"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, RecursionError) as e:
        return first_line(e)


class Look:
    """A model folder's small files, each read once.

    `memo` remembers by a file's stat what was computed from it.
    """

    def __init__(self, folder: Path, memo: Callable[..., str] | None = None) -> None:
        self.folder = folder
        self._memo = memo
        self._own: dict[bool, list[Finding]] = {}
        try:
            self.config = read_config(folder)
            self.malformed = ""
        except (OSError, ValueError) as e:
            self.config, self.malformed = {}, str(e)

    def findings(
        self, node: Node, name: str, chats: Sequence[str] = (), *, trusts: bool
    ) -> list[Finding]:
        """What is wrong with making the node from this folder, whose model has that name.

        What is wrong with the model itself comes alone.

        `chats`: the data sets whose rows the node has rendered by the model's chat template.
        """
        if trusts not in self._own:
            self._own[trusts] = list(self._of_model(trusts=trusts))
        own = self._own[trusts]
        if any(f.fails for f in own):
            return own
        return [*own, *self._of_use(node, name), *(() if trusts else self._asked(node, chats))]

    def _of_model(self, *, trusts: bool) -> Iterator[Finding]:
        if broken := self._broken_file():
            yield broken
            return
        if self.malformed:
            yield Finding(
                f"config.json can't be read: {self.malformed}",
                "is the download complete?",
                of_model=True,
            )
            return
        for name in SMALL:
            if malformed := _malformed(self.folder / name):
                yield Finding(
                    f"{name} can't be read: {malformed}", "is the download complete?", of_model=True
                )
                return
        if finding := too_many(self.config, self._sizes) or self._not_numbers():
            yield finding
            return
        if not architecture_of(self.config):
            hint = (
                'add the class that the model was saved from, such as "architectures": '
                '["LlamaForCausalLM"]'
            )
            yield Finding("config.json names no `architectures`", hint, of_model=True)
            return
        if not trusts and (finding := unknown_to_transformers(self.config)):
            yield finding
            return
        if finding := self._quantised_somehow():
            yield finding
            return
        if finding := made_for_something_else(self.config):
            yield finding
            if finding.fails:
                return
        if not trusts:
            yield from (
                Finding(f"{file}: {fact}", foreign.MODEL_HINT, of_model=True)
                for fact, file in foreign.of_model(self.folder)
            )
        yield from self._ignored()
        yield from self._vocabulary()

    def _broken_file(self) -> Finding | None:
        """A small file of which only a pointer or a web page came along."""
        for path in sorted(p for pattern in READ_FILES for p in self.folder.glob(pattern)):
            with contextlib.suppress(OSError):
                if (
                    path.is_file()
                    and (found := not_a_model.file_like(not_a_model.head_of(path)))
                    and path.stat().st_size
                ):
                    return Finding(
                        f"{path.relative_to(self.folder).as_posix()} can't be read: {found[0]}",
                        found[1],
                        of_model=True,
                    )
        return None

    def _sizes(self) -> tuple[int, int]:
        """How many tensors the weights are, and their largest dimension; without end where that
        can't be read.
        """
        found = [(0, 0)]
        try:
            for name in weight_files(self.folder).names:
                tensors, largest = self._remembered(
                    self.folder / name, sizes_in, "count and largest of tensors"
                ).split()
                found.append((int(tensors), int(largest)))
        except (OSError, ValueError, InputError):
            return sys.maxsize, sys.maxsize
        return sum(n for n, _ in found), max(n for _, n in found)

    def _not_numbers(self) -> Finding | None:
        for name in NUMBERS:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                data = self.config if name == "config.json" else read_json(self.folder / name)
                if finding := not_numbers(name, data):
                    return finding
        return None

    def _quantised_somehow(self) -> Finding | None:
        """A quantised model of which transformers would not know how."""
        version, known = f"transformers {installed('transformers')}", methods_of_transformers()
        if (method := quantised_by(self.config)) and known and method not in known:
            fact = f"the model is quantised ({method}), which {version} does not know"
            if method == "unknown":
                fact = (
                    "the model is quantised, and config.json does not say by which method "
                    "(quant_method)"
                )
            return Finding(fact, full_precision_hint("").partition(":")[0], of_model=True)
        if not method:
            with contextlib.suppress(OSError, InputError):
                for name in weight_files(self.folder).names:
                    if tensor := self._remembered(
                        self.folder / name, quantised_in, "quantised tensors"
                    ):
                        fact = (
                            f"the weights are quantised ({tensor} in {name}), and config.json has "
                            "no "
                            "quantization_config"
                        )
                        return Finding(
                            fact,
                            "name the full-precision model, or the folder that config.json "
                            "belongs to",
                            of_model=True,
                        )
        return None

    def _ignored(self) -> Iterator[Finding]:
        with contextlib.suppress(OSError, InputError):
            if ignored := ignored_weights(self.folder):
                fact = (
                    f"{', '.join(ignored[:3])}{' ...' if len(ignored) > 3 else ''} in the model's "
                    "folder will be ignored"
                )
                hint = f"loaders read {', '.join(weight_files(self.folder).names[:3])}"
                yield Finding(fact, hint, of_model=True, fails=False)

    def _vocabulary(self) -> Iterator[Finding]:
        rows, said = self._embedding_rows(), text_config(self.config).get("vocab_size")
        if rows and isinstance(said, int) and said != rows:
            hint = (
                "one of the two was changed without the other; save the model again with "
                "save_pretrained"
            )
            yield Finding(
                f"config.json says vocab_size {said}, and the model's embedding has {rows} rows",
                hint,
                of_model=True,
            )
            return
        rows = rows or (said if isinstance(said, int) else 0)
        last, config = self._last_tokens()
        beyond = without_embedding(last, config, rows)[0] if rows else []
        if not beyond:
            return
        fact = f"the tokenizer has {last[0][0] + 1} tokens, the model's embedding {rows}"
        hint = (
            f"{beyond[0]!r} has no embedding: enlarge it (model.resize_token_embeddings) and save "
            "the "
            "model, or take the tokenizer it came with"
        )
        yield Finding(fact, hint, of_model=True)

    def _embedding_rows(self) -> int:
        """How many rows the embedding's tensor has, by the header of its file; 0 where that is not
        plain.
        """
        index = self.folder / f"{WHOLE}.index.json"
        with contextlib.suppress(
            OSError, ValueError, KeyError, TypeError, AttributeError, InputError, StopIteration
        ):
            file = WHOLE
            if not (self.folder / WHOLE).is_file():
                names = read_json(index)["weight_map"]
                file = next((file for name, file in names.items() if name.endswith(EMBEDDINGS)), "")
            return int(
                self._remembered(self.folder / Path(file).name, rows_in, "embedding rows") or 0
            )
        return 0

    def _last_tokens(self) -> tuple[list[tuple[int, str]], Config]:
        """The tokens of the highest numbers, the highest first; and tokenizer_config.json."""
        file = self.folder / "tokenizer.json"
        found: dict[int, str] = {}
        config: Config = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            if file.is_file():
                found |= {
                    int(number): content
                    for number, content in json.loads(
                        self._remembered(file, last_in, "last tokens")
                    )
                }
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            config = read_json(self.folder / "tokenizer_config.json")
            found |= {
                int(number): str(token["content"])
                for number, token in config.get("added_tokens_decoder", {}).items()
            }
        return sorted(found.items(), reverse=True), config

    def _remembered(
        self, file: Path, compute: Callable[[Path, hashing.OnBytes], str], digest_kind: str
    ) -> str:
        return (
            self._memo(file, compute, digest_kind)
            if self._memo
            else compute(file, hashing.ignore_progress)
        )

    def _of_use(self, node: Node, name: str) -> Iterator[Finding]:
        method = quantised_by(self.config)
        if method and node.kind == "merged":
            yield Finding(f"the base model is quantised ({method})", full_precision_hint(name))
        elif method and node.kind != "onnx":
            yield from self._loaded_quantised(method)
        if node.kind == "adapter":
            yield from self._trained(node, method)
        if node.kind == "onnx":
            yield from self._converted(node, method)

    def _asked(self, node: Node, chats: Sequence[str]) -> Iterator[Finding]:
        """What turns texts into tokens.

        A merge needs none, and an adapter from elsewhere may bring its own.
        """
        if node.kind == "merged" or node.source:
            return
        if not any(any(self.folder.glob(pattern)) for pattern in TOKENIZER_FILES):
            hint = "take tokenizer.json and tokenizer_config.json from where the model came from"
            yield Finding("the model's folder has no tokenizer", hint, of_model=True)
        elif node.kind == "adapter" and chats:
            with contextlib.suppress(OSError):
                if not any(template_clock.templates_in(template_clock.files_of(self.folder))):
                    fact = (
                        f"the model has no chat template, by which the rows of {chats[0]} "
                        "are rendered"
                    )
                    hint = (
                        "write the turns out with prompt and completion, or put a "
                        "chat_template.jinja "
                        "into the model's folder"
                    )
                    yield Finding(fact, hint, ("data",))

    def _loaded_quantised(self, method: str) -> Iterator[Finding]:
        """What transformers takes to load a quantised model."""
        missing = [name for name in LIBRARIES.get(method, ()) if not is_there(name)]
        if missing:
            names = " and ".join(missing)
            fact = (
                f"the base model is quantised ({method}), and transformers needs {names} to load "
                "it, "
                "not installed here"
            )
            yield Finding(
                fact, f"name the full-precision model, or `pip install {' '.join(missing)}`"
            )
        elif method == "bitsandbytes" and self._is_plain():
            fact = (
                f"the base model is quantised ({method}), as config.json says, and its "
                "weights are not"
            )
            yield Finding(
                fact,
                "leave quantization_config out of config.json, or name the folder that "
                "config.json belongs to",
            )

    def _is_plain(self) -> bool:
        """No tensor of the (first) weight file is of whole numbers, as quantised ones are."""
        with contextlib.suppress(OSError, InputError):
            file = next(
                (
                    f
                    for f in (self.folder / WHOLE, *sorted(self.folder.glob("*.safetensors")))
                    if f.is_file()
                ),
                None,
            )
            return (
                file is not None and self._remembered(file, kinds_in, "kinds of tensors") == "float"
            )
        return False

    def _trained(self, node: Node, method: str) -> Iterator[Finding]:
        if method and node.fields.get("method") == "qlora":
            yield from self._quantised_twice(node, method)
        context, length = context_of(self.config), node.fields.get("training", {}).get("max_length")
        if context and isinstance(length, int) and length > context:
            fact = f"max_length {length} is more than the {context} tokens that the model takes"
            yield Finding(
                fact,
                f"a row that is longer than {context} tokens fails the training",
                ("training", "max_length"),
                fails=False,
            )

    def _quantised_twice(self, node: Node, method: str) -> Iterator[Finding]:
        stored = self.config["quantization_config"]
        if method != "bitsandbytes" or not (
            stored.get("load_in_4bit") or stored.get("_load_in_4bit")
        ):
            fact = f"method: qlora quantises the base, which is quantised already ({method})"
            yield Finding(fact, "name the full-precision model, or write method: lora", ("method",))
            return
        given = node.fields.get("quantisation", {})
        wanted = {"type": given.get("type", "nf4"), "double": given.get("double", True)}
        found = {
            "type": stored.get("bnb_4bit_quant_type", "fp4"),
            "double": bool(stored.get("bnb_4bit_use_double_quant", False)),
        }
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
            hint = (
                "a merge of it can be built and used with transformers; a later onnxruntime-genai "
                "may "
                "know it"
            )
            yield Finding(fact, hint)
        elif reason := known_to_fail(self.config, node.fields.get("precision", "int4")):
            yield reason
        elif method and readers and method not in readers:
            fact = (
                f"the model builder (onnxruntime-genai {version}) does not read weights that are "
                f"quantised by {method}"
            )
            yield Finding(
                fact, f"name the full-precision model; it reads {', '.join(sorted(readers))}"
            )
