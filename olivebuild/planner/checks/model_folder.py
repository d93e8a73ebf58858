"""Checks of a model's folder: faults that hold whatever is made of the model.

Only small files and headers are read, each once.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from olivebuild.core import hashing
from olivebuild.core.errors import InputError, first_line
from olivebuild.core.fs.small_files import read_json
from olivebuild.core.host import installed
from olivebuild.formats import foreign, not_a_model
from olivebuild.formats.model_config import (
    EMBEDDINGS,
    Config,
    ModelFinding,
    architecture_of,
    full_precision_hint,
    kinds_in,
    last_in,
    quantised_by,
    read_config,
    rows_in,
    text_config,
    unknown_to_transformers,
    without_embedding,
)
from olivebuild.formats.model_numbers import NUMBERS, impossible_size, not_numbers, sizes_in
from olivebuild.formats.model_signs import (
    made_for_something_else,
    methods_of_transformers,
    quantised_in,
)
from olivebuild.formats.weight_files import READ_FILES, WHOLE, ignored_weights, weight_files

SMALL = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""JSON objects beside config.json that loaders read where they are there."""


class ModelFolder:
    """A model's folder, and the faults of the model itself.

    `memo` remembers results by the stat of the file from which they were computed.
    """

    def __init__(self, path: Path, memo: Callable[..., str] | None = None) -> None:
        self.path = path
        self._memo = memo
        self._findings: dict[bool, list[ModelFinding]] = {}
        try:
            self.config = read_config(path)
            self.malformed = ""
        except (OSError, ValueError) as e:
            self.config, self.malformed = {}, str(e)

    def findings(self, *, trusts: bool) -> list[ModelFinding]:
        """Return the faults of the model; `trusts`: code that comes with it may run."""
        if trusts not in self._findings:
            self._findings[trusts] = list(self._find(trusts=trusts))
        return self._findings[trusts]

    def _find(self, *, trusts: bool) -> Iterator[ModelFinding]:
        """Yield the first fault that hides others, or else all."""
        if finding := self._unreadable() or self._unusable(trusts=trusts):
            yield finding
            return
        if finding := made_for_something_else(self.config):
            yield finding
            if finding.fails:
                return
        if not trusts:
            for fact, file in foreign.of_model(self.path):
                yield ModelFinding(f"{file}: {fact}", foreign.MODEL_HINT, of_model=True)
        yield from self._ignored()
        yield from self._vocabulary()

    def _unreadable(self) -> ModelFinding | None:
        """Return the first of the small files that can't be read."""
        if broken := self._broken_file():
            return broken
        for name in ("config.json", *SMALL):
            error = self.malformed if name == "config.json" else _malformed(self.path / name)
            if error:
                fact = f"{name} can't be read: {error}"
                return ModelFinding(fact, "is the download complete?", of_model=True)
        return None

    def _unusable(self, *, trusts: bool) -> ModelFinding | None:
        """Return a fault of the configuration for which no library loads the model."""
        if finding := impossible_size(self.config, self._sizes) or self._not_numbers():
            return finding
        if not architecture_of(self.config):
            hint = (
                'add the class that the model was saved from, such as "architectures": '
                '["LlamaForCausalLM"]'
            )
            return ModelFinding("config.json names no `architectures`", hint, of_model=True)
        if not trusts and (finding := unknown_to_transformers(self.config)):
            return finding
        return self._unknown_quantisation()

    def _broken_file(self) -> ModelFinding | None:
        """Return a small file of which the download brought only a pointer or a web page."""
        for path in sorted(p for pattern in READ_FILES for p in self.path.glob(pattern)):
            with contextlib.suppress(OSError):
                if not path.is_file():
                    continue
                problem = not_a_model.file_like(not_a_model.head_of(path))
                if problem and path.stat().st_size:
                    name = path.relative_to(self.path).as_posix()
                    fact, hint = problem
                    return ModelFinding(f"{name} can't be read: {fact}", hint, of_model=True)
        return None

    def _sizes(self) -> tuple[int, int]:
        """Return the number of tensors of the weights, and their largest dimension.

        Both are `sys.maxsize` where a header can't be read.
        """
        sizes = [(0, 0)]
        try:
            for name in weight_files(self.path).names:
                tensors, largest = self.remembered(
                    self.path / name, sizes_in, "count and largest of tensors"
                ).split()
                sizes.append((int(tensors), int(largest)))
        except (OSError, ValueError, InputError):
            return sys.maxsize, sys.maxsize
        return sum(count for count, _ in sizes), max(largest for _, largest in sizes)

    def _not_numbers(self) -> ModelFinding | None:
        for name in NUMBERS:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                data = self.config if name == "config.json" else read_json(self.path / name)
                if finding := not_numbers(name, data):
                    return finding
        return None

    def _unknown_quantisation(self) -> ModelFinding | None:
        """Return the fault of a quantised model whose method transformers would not know."""
        method, methods = quantised_by(self.config), methods_of_transformers()
        if not method:
            return self._undeclared_quantisation()
        if methods and method not in methods:
            version = f"transformers {installed('transformers')}"
            fact = f"the model is quantised ({method}), which {version} does not know"
            if method == "unknown":
                fact = (
                    "the model is quantised, and config.json does not say by which method "
                    "(quant_method)"
                )
            return ModelFinding(fact, full_precision_hint("").partition(":")[0], of_model=True)
        return None

    def _undeclared_quantisation(self) -> ModelFinding | None:
        """Return the fault of quantised weights of which config.json says nothing."""
        with contextlib.suppress(OSError, InputError):
            for name in weight_files(self.path).names:
                tensor = self.remembered(self.path / name, quantised_in, "quantised tensors")
                if tensor:
                    fact = (
                        f"the weights are quantised ({tensor} in {name}), and config.json has no "
                        "quantization_config"
                    )
                    hint = (
                        "name the full-precision model, or the folder that config.json belongs to"
                    )
                    return ModelFinding(fact, hint, of_model=True)
        return None

    def _ignored(self) -> Iterator[ModelFinding]:
        """Yield a warning of weights that loaders ignore."""
        with contextlib.suppress(OSError, InputError):
            if ignored := ignored_weights(self.path):
                names = ", ".join(ignored[:3]) + (" ..." if len(ignored) > 3 else "")
                fact = f"{names} in the model's folder will be ignored"
                hint = f"loaders read {', '.join(weight_files(self.path).names[:3])}"
                yield ModelFinding(fact, hint, of_model=True, fails=False)

    def _vocabulary(self) -> Iterator[ModelFinding]:
        """Yield the fault of an embedding that has fewer or more rows than there are tokens."""
        rows, declared = self._embedding_rows(), text_config(self.config).get("vocab_size")
        if rows and isinstance(declared, int) and declared != rows:
            hint = (
                "one of the two was changed without the other; save the model again with "
                "save_pretrained"
            )
            fact = (
                f"config.json says vocab_size {declared}, and the model's embedding has {rows} rows"
            )
            yield ModelFinding(fact, hint, of_model=True)
            return
        rows = rows or (declared if isinstance(declared, int) else 0)
        last, config = self._last_tokens()
        beyond = without_embedding(last, config, rows)[0] if rows else []
        if not beyond:
            return
        fact = f"the tokenizer has {last[0][0] + 1} tokens, the model's embedding {rows}"
        hint = (
            f"{beyond[0]!r} has no embedding: enlarge it (model.resize_token_embeddings) and save "
            "the model, or take the tokenizer it came with"
        )
        yield ModelFinding(fact, hint, of_model=True)

    def _embedding_rows(self) -> int:
        """Return the number of rows of the embedding, by its file's header; 0 where unclear."""
        index = self.path / f"{WHOLE}.index.json"
        with contextlib.suppress(
            OSError, ValueError, KeyError, TypeError, AttributeError, InputError, StopIteration
        ):
            file = WHOLE
            if not (self.path / WHOLE).is_file():
                names = read_json(index)["weight_map"]
                file = next((file for name, file in names.items() if name.endswith(EMBEDDINGS)), "")
            return int(self.remembered(self.path / Path(file).name, rows_in, "embedding rows") or 0)
        return 0

    def _last_tokens(self) -> tuple[list[tuple[int, str]], Config]:
        """Return (id, text) of the last tokens, the highest first, and tokenizer_config.json."""
        file = self.path / "tokenizer.json"
        tokens: dict[int, str] = {}
        config: Config = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            if file.is_file():
                last = json.loads(self.remembered(file, last_in, "last tokens"))
                tokens |= {int(number): content for number, content in last}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            config = read_json(self.path / "tokenizer_config.json")
            added = config.get("added_tokens_decoder", {})
            tokens |= {int(number): str(token["content"]) for number, token in added.items()}
        return sorted(tokens.items(), reverse=True), config

    def has_plain_weights(self) -> bool:
        """Return whether all tensors of the first weight file are floats.

        Quantised tensors are of whole numbers.
        """
        with contextlib.suppress(OSError, InputError):
            files = (self.path / WHOLE, *sorted(self.path.glob("*.safetensors")))
            file = next((file for file in files if file.is_file()), None)
            if file is not None:
                return self.remembered(file, kinds_in, "kinds of tensors") == "float"
        return False

    def remembered(
        self, file: Path, compute: Callable[[Path, hashing.OnBytes], str], digest_kind: str
    ) -> str:
        """Return the result of `compute` for a file; `digest_kind` names the computation."""
        if self._memo:
            return self._memo(file, compute, digest_kind)
        return compute(file, hashing.ignore_progress)


def _malformed(file: Path) -> str:
    """Return why a file is no JSON object; empty where it is one, or there is no file."""
    try:
        return "" if isinstance(read_json(file), dict) else "it is not a JSON object"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, RecursionError) as e:
        return first_line(e)
