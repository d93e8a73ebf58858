"""MLflow model folders: which of their files are those of a Hugging Face model folder.

An MLflow model is a folder with a file `MLmodel`, in YAML (https://mlflow.org/docs/latest/ml/model).
That file is read as data: nothing that it names is imported, and mlflow is not needed.

flavour           config and weights              tokenizer
transformers      model_binary, which is `model`  components/tokenizer
  mlflow < 2.4.1  pipeline                        components/tokenizer, or pipeline
hftransformersv2  data/config, data/model         data/tokenizer
hftransformers    the same

The first is that of mlflow/transformers/model_io.py (3.17), the others are those of Azure's model
catalogue (azureml-evaluate-mlflow, hftransformers/__init__.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from msgspec import Struct

from olivebuild.core.errors import InputError, first_line
from olivebuild.core.fs.small_files import read_text
from olivebuild.formats import foreign
from olivebuild.formats.weight_files import FOLDERS

MLMODEL = "MLmodel"
CONFIG = "config.json"
AZURE_FLAVOURS = ("hftransformersv2", "hftransformers")
FLAVOURS = ("transformers", *AZURE_FLAVOURS)
TOKENIZER = "components/tokenizer"
OF_MODEL = (CONFIG, "generation_config.json", "*.safetensors", "*.index.json", "*.bin")
"""Names that are the model's where its tokenizer's folder has them, too."""
OF_TOKENIZER = ("tokenizer*", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
LONGEST = 1 << 18
"""Characters of an MLmodel file. Those of real models have some thousand."""


class Layout(Struct, frozen=True, kw_only=True):
    """Folders of an MLflow model, relative to that of `MLmodel`, whose files make the model."""

    model: str
    config: str = ""
    """A folder whose files stand in for those of `model`."""
    tokenizers: tuple[str, ...]
    """The first that is there counts."""
    needs_tokenizer: bool

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.model, self.config, *self.tokenizers)))


def root_of(names: Collection[str]) -> str | None:
    """Return the folder of `MLmodel` among the files of a model's folder, "" for the folder itself.

    None where it has a `config.json` of its own, or no such file. Azure's catalogue has the model
    in a folder of the folder that is downloaded.
    """
    if CONFIG in names:
        return None
    if MLMODEL in names:
        return ""
    inner = [name.removesuffix(f"/{MLMODEL}") for name in names if fnmatch(name, f"*/{MLMODEL}")]
    return inner[0] if len(inner) == 1 and "/" not in inner[0] else None


def find(folder: Path) -> Path | None:
    """Return the folder of `MLmodel` in a model's folder; None where it is no MLflow model."""
    if (folder / CONFIG).is_file():
        return None
    if (folder / MLMODEL).is_file():
        return folder
    names = [path.relative_to(folder).as_posix() for path in folder.glob(f"*/{MLMODEL}")]
    root = root_of(names)
    return None if root is None else folder / root


def read(file: Path) -> dict[str, Any]:
    """Return what an `MLmodel` file says. Raises InputError."""
    # Few recipes name such folders.
    import yaml

    hint = "is it the file that mlflow wrote?"
    try:
        text = read_text(file)
        if len(text) > LONGEST:
            raise ValueError(f"it has {len(text) >> 10} KiB")
        data = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as e:
        raise InputError(
            f"{MLMODEL} can't be read: {first_line(e)}", where=str(file), hint=hint
        ) from None
    if not isinstance(data, dict) or not isinstance(data.get("flavors"), dict):
        raise InputError(f"{MLMODEL} names no `flavors`", where=str(file), hint=hint)
    return data


def layout_of(mlmodel: Mapping[str, Any], where: str, *, trust: bool) -> Layout:
    """Return the folders that make the model. Raises InputError, at `where`.

    `trust`: a model that comes with code of its own is read, too. None of that code is run.
    """
    flavours = mlmodel["flavors"]
    name = next((n for n in FLAVOURS if isinstance(flavours.get(n), dict)), "")
    if not name:
        raise _other_flavours(flavours, where)
    flavour = flavours[name]
    if not trust and (code := flavour.get("code")):
        raise InputError(
            f"{MLMODEL} names code of the model's own (code: {_shown(code)})",
            where=where,
            hint=f"none of it is run; {foreign.MODEL_HINT}",
        )
    if name in AZURE_FLAVOURS:
        data = _inside(flavour.get("model_data") or "data", "model_data", where)
        return Layout(
            model=f"{data}/model",
            config=f"{data}/config",
            tokenizers=(f"{data}/tokenizer",),
            needs_tokenizer=True,
        )
    _check_weights(flavour, where)
    components = flavour.get("components")
    return Layout(
        model=_inside(flavour.get("model_binary") or "pipeline", "model_binary", where),
        tokenizers=(TOKENIZER, "components/processor"),
        needs_tokenizer=isinstance(components, list) and "tokenizer" in components,
    )


def _other_flavours(flavours: Mapping[str, Any], where: str) -> InputError:
    names = ", ".join(map(_shown, flavours)) or "none"
    hint = f"save the model with mlflow.transformers; flavours read are {', '.join(FLAVOURS)}"
    if "python_function" in flavours:
        loader = flavours["python_function"]
        module = loader.get("loader_module") if isinstance(loader, dict) else None
        names += f" (loaded by {_shown(module)})" if module else ""
        hint = f"a python_function is code, which is not run; {hint}"
    return InputError(
        f"the MLflow model is no transformers model: its flavours are {names}",
        where=where,
        hint=hint,
    )


def _check_weights(flavour: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a `transformers` flavour that holds no weights, or another's too."""
    source, revision = flavour.get("source_model_name"), flavour.get("source_model_revision")
    of = f" of {_shown(source)}" if source else ""
    if adapter := flavour.get("peft_adaptor"):
        hint = (
            f"name its folder {_shown(adapter)}/ as the `source` of a target of kind adapter, and "
            "the model it was trained on as its `model`"
        )
        if base := flavour.get("model_binary"):
            hint += f": {_shown(base)}/, with the files of {TOKENIZER}/ beside its own"
        raise InputError(f"the MLflow model is an adapter{of}", where=where, hint=hint)
    if flavour.get("model_binary"):
        return
    if base := flavour.get("local_base_model_path"):
        raise InputError(
            f"the MLflow model holds no weights: they lay at {_shown(base)} where it was saved",
            where=where,
            hint="name the folder that has them",
        )
    if revision:
        raise InputError(
            "the MLflow model holds no weights (save_pretrained=False)",
            where=where,
            hint=f"name the model it refers to: hf:{_shown(source)}@{_shown(revision)}",
        )


def _shown(value: object) -> str:
    """Return a value for a message. Aliases of YAML make short text long, so no list is written."""
    return value[:200] if isinstance(value, str) else f"a {type(value).__name__}"


def _inside(value: object, key: str, where: str) -> str:
    """Return a folder that `MLmodel` names. Raises InputError for one that is not below its own."""
    path = PurePosixPath(value) if isinstance(value, str) else PurePosixPath("..")
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in str(value):
        raise InputError(
            f"{MLMODEL} has {key}: {_shown(value)!r}",
            where=where,
            hint="name a folder beside MLmodel",
        )
    return path.as_posix()


def files_of(layout: Layout, names: Collection[str], where: str) -> dict[str, str]:
    """Return plain name -> file, of the files `names` of an MLflow model's folder.

    Raises InputError, at `where`, where the model or its tokenizer is not among them.
    """
    files = dict(_files_in(layout.model, names))
    if not files:
        raise InputError(
            f"{layout.model}/ is missing, which {MLMODEL} names as the model",
            where=where,
            hint="is the download complete?",
        )
    if layout.config:
        files |= dict(_files_in(layout.config, names))
    if CONFIG not in files:
        raise InputError(
            f"{layout.config or layout.model}/{CONFIG} is missing",
            where=where,
            hint="is the download complete?",
        )
    tokenizer = next(filter(None, (dict(_files_in(f, names)) for f in layout.tokenizers)), {})
    files |= {n: path for n, path in tokenizer.items() if not _is_any(n, OF_MODEL)}
    if layout.needs_tokenizer and not any(_is_any(n, OF_TOKENIZER) for n in files):
        raise InputError(
            f"{layout.tokenizers[0]}/ is missing, which {MLMODEL} names as the tokenizer",
            where=where,
            hint="is the download complete?",
        )
    return files


def _files_in(folder: str, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (name in the folder, name) of what loaders may read of a folder."""
    for name in names:
        inner = name.removeprefix(f"{folder}/")
        if inner != name and ("/" not in inner or inner.partition("/")[0] in FOLDERS):
            yield inner, name


def _is_any(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def listed(root: Path, layout: Layout) -> list[Path]:
    """Return the folders and files in the folders of a layout, those that are there, sorted."""
    folders = [root / folder for folder in layout.folders]
    folders += [root / folder / inner for folder in layout.folders for inner in FOLDERS]
    there = sorted({folder for folder in folders if folder.is_dir()})
    return [*there, *sorted(p for folder in there for p in folder.iterdir() if not p.is_dir())]
