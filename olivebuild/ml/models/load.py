"""Hugging Face models loaded and saved in one way: from safetensors, without remote code."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import AbstractContextManager, nullcontext, suppress
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from olivebuild.core.errors import InputError, Where, first_line
from olivebuild.core.fs.small_files import read_json, read_text
from olivebuild.formats import imported, template_clock
from olivebuild.formats.safetensors import tensors_of
from olivebuild.formats.weight_files import model_files, name_in, weight_files
from olivebuild.ml.kernels import mkl
from olivebuild.ml.models import streamed
from olivebuild.ml.models.opened import check_loaded
from olivebuild.ml.models.tokenizer_files import has_tokenizer

SMALL = 20_000_000
"""Parameters below which one thread is faster than several: the matrices are too small to share."""
THREADS = torch.get_num_threads()
"""torch's threads for all other models: a process may have loaded a small one before."""


def platform(dtype: str = "auto", device: str = "auto") -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype to compute in.

    "auto" is bf16 on CUDA cards that have it, fp16 on older ones, fp32 elsewhere.
    """
    if device == "auto":
        has_mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if dtype != "auto":
        return torch.device(device), getattr(torch, dtype)
    if device.startswith("cuda"):
        half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.device(device), half
    return torch.device(device), torch.float32


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed torch, and let equal inputs give equal bytes on one processor and library versions.

    On a GPU that is not promised, and would cost a lot.
    """
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    # Only of use to find code that reads what it never wrote; costs a pass over all that is
    # allocated.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def parameters_in(folder: Path) -> int:
    """Return how many parameters a model folder holds, from the safetensors headers."""
    files = [folder / name for name in weight_files(folder).names]
    return sum(sum(prod(t.shape) for t in tensors_of(file)) for file in files)


def load_model(
    folder: str | Path,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    trust_remote_code: bool = False,
    quantised: Any = None,
    where: Where | None = None,
) -> Any:
    """Load a causal language model in evaluation mode.

    `quantised` is a quantisation of transformers for its weights. `where` is the place in the
    recipe that names it, for errors. Raises InputError for a folder that can't be loaded, and for
    weights that transformers would make up, or that are NaN or infinite.
    """
    imported.check(Path(folder), "model", where or str(folder), trust=trust_remote_code)
    torch.set_num_threads(1 if parameters_in(Path(folder)) < SMALL else THREADS)
    mkl.warm_up_mkl()
    auto: Any = AutoModelForCausalLM
    options: dict[str, Any] = {}
    files: AbstractContextManager[None] = nullcontext()
    if quantised:
        options = {"quantization_config": quantised, "device_map": {"": str(device)}}
    else:
        with suppress(streamed.Unstreamed):
            files = streamed.taken(folder, dtype, torch.device(device)).in_place_of_files()
            options = {"device_map": {"": str(device)}}
    try:
        with files:
            model, info = auto.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except ModuleNotFoundError:
        raise
    except (OSError, ValueError, ImportError, AttributeError, KeyError, TypeError) as e:
        # Also what a quantiser of transformers says of weights that it does not expect.
        hint = own_code(e) or "does transformers load this folder?"
        raise InputError(
            f"the model can't be loaded: {first_line(e)}", where=where or str(folder), hint=hint
        ) from None
    check_loaded(info, "", where or str(folder))
    if not quantised:
        # One device for all is what a model has without a map.
        vars(model).pop("hf_device_map", None)
        model = model.to(device)
    _check_finite(model, folder, where)
    return model.eval()


def tokenizer_with(tokenizer: Any, adapter: Path, date: str) -> Any:
    """Return the tokenizer that an adapter comes with, or its base's with the adapter's template.

    `date` is what the template is told. The base's is left as it is.
    """
    if has_tokenizer(adapter):
        # Trained with one of its own, as its merge has it, too. Code that it names is a stranger's.
        brought = load_tokenizer(adapter, date=date)
        # Where a tokenizer lies is where its model is looked for.
        brought.name_or_path = tokenizer.name_or_path
        return brought
    if not (template := adapter / "chat_template.jinja").is_file():
        return tokenizer
    dressed = copy.copy(tokenizer)
    dressed.chat_template = template_clock.fixed(read_text(template), date)
    return dressed


def _check_finite(model: Any, folder: str | Path, where: Where | None) -> None:
    """Raise InputError for a loaded model that holds NaN or infinite numbers."""
    if names := not_finite_in(model):
        hint = "is the download complete, and did the training that made it go well?"
        fact = f"{names[0]} holds NaN or infinite numbers ({len(names)} such tensors)"
        raise InputError(
            f"{fact}, in {folder}" if where else fact, where=where or str(folder), hint=hint
        )


def not_finite_in(model: Any) -> list[str]:
    """Return the names of a model's parameters that hold NaN or infinite numbers."""

    def is_finite(tensor: torch.Tensor) -> bool:
        # A sum needs no memory; one that is too large says nothing yet.
        dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        return bool(torch.isfinite(tensor.sum(dtype=dtype)) or torch.isfinite(tensor).all())

    with torch.no_grad():
        return [
            name
            for name, tensor in model.named_parameters()
            if tensor.is_floating_point() and not is_finite(tensor)
        ]


def load_tokenizer(folder: str | Path, *, trust_remote_code: bool = False, date: str = "") -> Any:
    """Load a tokenizer whose chat template takes `date` for today's; without one it fails there.

    Raises InputError.
    """
    tokenizer = load_published_tokenizer(folder, trust_remote_code=trust_remote_code)
    # Every rendering comes from here, and none may read the clock.
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str):
        tokenizer.chat_template = template_clock.fixed(template, date)
    elif template:
        tokenizer.chat_template = {
            name: template_clock.fixed(text, date) for name, text in template.items()
        }
    return tokenizer


def load_published_tokenizer(folder: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer with its chat template as it is, to be copied and not to be rendered.

    Raises InputError.
    """
    try:
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except BaseException as e:
        # Code written in Rust raises plain exceptions, or panics, which are none.
        if isinstance(e, SystemExit | KeyboardInterrupt | ImportError | MemoryError):
            raise
        hint = own_code(e) or "is tokenizer.json there, and whole?"
        raise InputError(
            f"the tokenizer can't be loaded: {first_line(e)}", where=str(folder), hint=hint
        ) from None


def own_code(error: BaseException) -> str:
    """Return the hint for a refusal of transformers to run the folder's code; else ""."""
    if "trust_remote_code" not in str(error) and "custom code" not in str(error):
        return ""
    return (
        "trust_remote_code: true on the model would let it run its own code: read its .py files "
        "first"
    )


def save_model(model: Any, folder: Path, extra_from: Path | None = None) -> None:
    """Save a model and its configuration.

    `extra_from` is a folder with the tokenizer and other files that a loader reads.
    """
    model.save_pretrained(folder)
    if extra_from:
        copy_processing_files(extra_from, folder)
    canonical_config(folder)


def copy_processing_files(source: Path, folder: Path) -> None:
    """Copy the other files that a loader reads: tokenizer, chat template, generation config."""
    for path in model_files(source)[1]:
        place = folder / name_in(source, path)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def canonical_config(folder: Path) -> None:
    """Rewrite config.json without what differs from machine to machine."""
    file = folder / "config.json"
    config = read_json(file)
    for name in ("_name_or_path", "_model_name_or_path"):
        config.pop(name, None)
    file.write_text(
        json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8"
    )
