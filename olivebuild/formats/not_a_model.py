"""Recognition of folders and files that are named as models and are none.

By the names in it, or by its first bytes. Reads nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from olivebuild.core.fs import opening
from olivebuild.core.fs.small_files import read_json

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LFS = b"version https://git-lfs.github.com/spec/"
BEGINNING = 512
"""So many bytes tell."""


def file_like(head: bytes) -> tuple[str, str] | None:
    """Return what a file is that begins like this, and a hint.

    None where it may be part of a model.
    """
    if not head:
        return "it is empty", "download it again"
    if head.startswith(LFS):
        return (
            "it is a Git LFS pointer, not the file itself",
            "`git lfs pull` in that folder fetches it",
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return (
            "it is a web page, not the file itself",
            "download it again: a server has answered with a page that says why not",
        )
    return None


def weights_like(head: bytes) -> tuple[str, str] | None:
    """The same of a file that should be safetensors."""
    if kind := file_like(head):
        return kind
    if head.startswith(b"GGUF"):
        return "it is a GGUF file", "name it with its scheme, gguf:FILE"
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return (
            "it is pickled weights under another name",
            "convert them to safetensors: unpickling runs code",
        )
    if head.lstrip().startswith((b"{", b"[")):
        return "it is JSON text, perhaps what a server said in its place", "download it again"
    return None


def head_of(file: Path) -> bytes:
    with opening.open_file(file) as f:
        return f.read(BEGINNING)


def folder_like(folder: Path, listed: Collection[str] | None = None) -> tuple[str, str]:
    """Return what a folder without config.json is, and a hint.

    `listed`: what it will have in it, where not all of it is there yet.
    """
    names = listed or {p.name for p in folder.iterdir()}
    if "adapter_config.json" in names:
        trained_on = _trained_on(folder / "adapter_config.json")
        of = f", of {trained_on}" if trained_on else ""
        return (
            f"it is an adapter{of}, not a model",
            "name it as the `source` of a target of kind adapter, and the model it was trained on "
            "as its `model`",
        )
    if "model_index.json" in names:
        return (
            "it is a pipeline of several models (model_index.json)",
            "name a folder with one model that continues text",
        )
    if any(fnmatch(name, "*.gguf") for name in names):
        return (
            "it has GGUF files alone",
            f"name the file with its scheme: gguf:{min(n for n in names if fnmatch(n, '*.gguf'))}",
        )
    if "genai_config.json" in names or any(fnmatch(name, "*.onnx") for name in names):
        return "it is an ONNX model", "name it as the `source` of a target of kind onnx"
    if "params.json" in names:
        return (
            "its model is in the format of its makers (params.json)",
            "take the files of the transformers format: config.json, model.safetensors",
        )
    if inner := sorted(
        p.parent.relative_to(folder).as_posix()
        for q in ("*/config.json", "snapshots/*/config.json")
        for p in folder.glob(q)
    ):
        return "config.json is missing", f"{inner[-1]}/ in it has one: name that folder"
    return "config.json is missing", "name the folder that holds config.json and the weights"


def _trained_on(file: Path) -> str:
    try:
        return str(read_json(file).get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def without_weights(names: Collection[str]) -> tuple[str, str]:
    """Return fact and hint of a model folder with these files.

    None of them is one that transformers would load.
    """
    others = sorted(n for n in names if n.endswith(".safetensors"))
    if "adapter_model.safetensors" in others:
        hint = (
            "name the model it was trained on here, and the folder as the `source` of a target of "
            "kind adapter"
        )
        return "no weights but an adapter's in the model folder", hint
    if others and all(n.startswith("consolidated") for n in others):
        hint = (
            "its tensors have other names than transformers looks for; take the files of the "
            "transformers format: model.safetensors, or shards"
        )
        return (
            f"only {others[0]} in the model folder, which is in the format of the model's makers",
            hint,
        )
    if others:
        hint = (
            f"is the download complete? If {others[0]} is the whole model, call it "
            "model.safetensors"
        )
        return (
            "no model.safetensors and no index of shards in the model folder; transformers would "
            f"not load {others[0]}",
            hint,
        )
    if gguf := sorted(n for n in names if n.endswith(".gguf")):
        return (
            f"no weights but GGUF ({gguf[0]}) in the model folder",
            f"name the file with its scheme: gguf:{gguf[0]}",
        )
    pickled = sorted(n for n in names if any(fnmatch(n, q) for q in PICKLES))
    fact = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
    return (
        f"{fact} in the model folder",
        "olivebuild reads safetensors and GGUF only, since unpickling runs code; convert the "
        "weights to safetensors first",
    )
