"""onnxruntime-genai's model builder: called with a recipe's options, its failures explained."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import InputError, StepError, first_line
from olivebuild.core.fs.small_files import read_json
from olivebuild.core.host import installed

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.onnx import OnnxFields

BUILDER_NAMES = {
    "algorithm": "algo_config",
    "symmetric": "is_symmetric",
    "op_types": "op_types_to_quantize",
    "mixed_precision": "matmul_mixed_precision",
    "qdq": "use_qdq",
    "cuda_graph": "enable_cuda_graph",
    "dml_graph": "enable_dml_graph",
    "webgpu_graph": "enable_webgpu_graph",
    "webgpu_fp32": "use_webgpu_fp32",
    "cuda_bf16": "use_cuda_bf16",
}
NOT_OPTIONS = {
    "model", "adapter", "source", "trust", "precision", "provider", "overrides", "slots",
    "calibration", "moments", "tuning",
}  # fmt: skip
K_QUANT = "quant_tensor_k_quant_cuda"
"""ONNX Runtime's function for its k-quant, on any device: where cupy is installed, on a GPU."""
K_QUANT_ON_CPU = "quant_tensor_k_quant_cpu"
EPSILONS = ("layer_norm_eps", "norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon")
"""Names of the epsilon of norms in configurations, where it is not `rms_norm_eps`.

The builder (0.18.0) looks for that name alone.
"""


def builder_options(fields: OnnxFields) -> dict[str, Any]:
    """Return the options of the model builder that the recipe sets, by the builder's names."""
    values = fields.model_dump(exclude=NOT_OPTIONS, exclude_none=True)
    options = {BUILDER_NAMES.get(name, name): value for name, value in values.items()}
    return {
        name: "/".join(v) if name == "op_types_to_quantize" else v for name, v in options.items()
    }


def run_builder(job: Job, fields: OnnxFields, folder: Path, out: Path, *, trust: bool) -> None:
    """Run the model builder from a Hugging Face folder into `out`.

    Raises InputError for a model or option that it refuses, BuilderFailed where its code fails.
    """
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    from olivebuild.ml.kernels import mkl
    from olivebuild.ml.models.load import load_tokenizer
    from olivebuild.ml.onnx.overrides import structured

    mkl.warm_up_mkl()
    options = builder_options(fields) | {"hf_remote": trust}
    words = [
        f"{name}={','.join(v) if isinstance(v, list) else str(v)}" for name, v in options.items()
    ]
    more = (
        structured(folder, fields.overrides, fields.precision, share=fields.shared_embeddings)
        if fields.overrides
        else {}
    )
    job.progress("converting", 0, 1)
    # The builder paints progress bars and prints a line a layer: that is for the log.
    place = (
        "",
        str(folder),
        str(out),
        fields.precision,
        fields.provider,
        str(job.out.parent / "builder"),
    )
    try:
        with _no_repository(), k_quant_on_processor():
            parsed = parse_extra_options(*place, words, **more)
            _name_epsilon(parsed["hf_details"]["hf_config"])
            create_model(*place, **parsed)
    except (NotImplementedError, ValueError) as e:
        # The builder calls a model by its folder, which is one of ours.
        first = first_line(e)
        for name in (str(folder), folder.name):
            first = first.replace(f"The {name} model", architecture_in(folder))
        hint = "another precision, provider or option may be possible"
        field = "overrides" if "overrides" in fields.model_fields_set else "precision"
        raise InputError(
            f"the model builder refuses: {first}", where=job.where(field), hint=hint
        ) from None
    except (
        AttributeError,
        TypeError,
        LookupError,
        AssertionError,
        NameError,
        ArithmeticError,
        RuntimeError,
    ) as e:
        if failed := _failed(job, e, folder):
            traceback.print_exc()
            raise failed from None
        raise
    except Exception as e:
        if type(e) is Exception:
            # The tokenizers library has no exception of its own: is its file the reason?
            load_tokenizer(folder, trust_remote_code=trust)
        raise
    job.progress("converting", 1, 1)


@contextlib.contextmanager
def k_quant_on_processor() -> Iterator[None]:
    """Let ONNX Runtime compute its k-quant on a processor, also where it would take a GPU.

    There cupy adds in another order, to other last bits, and no key names cupy.
    """
    from onnxruntime.quantization.neural_compressor import weight_only

    taken = getattr(weight_only, K_QUANT, None)
    instead = getattr(weight_only, K_QUANT_ON_CPU, None)
    # What records the builder has put something in its place.
    if taken is None or instead is None or taken.__module__ != weight_only.__name__:
        yield
        return
    setattr(weight_only, K_QUANT, instead)
    try:
        yield
    finally:
        setattr(weight_only, K_QUANT, taken)


def _name_epsilon(config: Any) -> None:
    """Let the builder find the epsilon of the model's norms.

    Where it finds none it takes one of its own, 1e-6.
    """
    text = config.get_text_config()
    if hasattr(text, "rms_norm_eps"):
        return
    for name in EPSILONS:
        if isinstance(epsilon := getattr(text, name, None), float):
            config.rms_norm_eps = epsilon
            return


class BuilderFailed(StepError):
    """A failure of the model builder's own code.

    `watched` means that the cause may be the traced run, so that the builder may do better alone.
    """

    watched = False


def _failed(job: Job, error: Exception, folder: Path) -> BuilderFailed | None:
    """Return what an exception of the builder means; None for one that other code raised."""
    from olivebuild.formats.conversions import known_to_fail
    from olivebuild.formats.model_config import read_config

    frames = traceback.extract_tb(error.__traceback__)
    place = Path(frames[-1].filename)
    if "onnxruntime_genai" not in place.parts:
        return None
    first = next(iter(str(error).strip().splitlines()), "").replace(str(folder), "the model")
    means = (
        f"it looks for {first}, which is not there"
        if isinstance(error, KeyError)
        else f"{first[:200]} ({type(error).__name__})"
    )
    name = Path(*place.parts[place.parts.index("onnxruntime_genai") + 1 :]).as_posix()
    versions = ", ".join(
        f"{library} {installed(library)}" for library in ("onnxruntime-genai", "transformers")
    )
    fact = (
        f"the model builder ({versions}) fails on {architecture_in(folder)}: {means} ({name}, "
        f"line {frames[-1].lineno}, {frames[-1].name})"
    )
    hint = (
        "another version of onnxruntime-genai or transformers may do better; so may other options"
    )
    if problem := known_to_fail(read_config(folder), job.action.fields.get("precision", "int4")):
        hint = problem.hint
    failed = BuilderFailed(fact, where=job.where("model"), hint=hint)
    failed.watched = isinstance(error, AttributeError | TypeError | RuntimeError)
    return failed


def architecture_in(folder: Path) -> str:
    """Return the name of a folder's architecture, or "the model"."""
    from olivebuild.formats.model_config import architecture_of, read_config

    with contextlib.suppress(OSError, ValueError):
        return architecture_of(read_config(folder)) or "the model"
    return "the model"


@contextlib.contextmanager
def _no_repository() -> Iterator[None]:
    """Hide the repository that the builder's own files lie in.

    Its commit would be written into the graph: in a project's environment, the project's.
    """
    before = os.environ.get("GIT_DIR")
    os.environ["GIT_DIR"] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ["GIT_DIR"]
        else:
            os.environ["GIT_DIR"] = before


def canonical(folder: Path, source: Path) -> None:
    """Take the folder that the model came from out of all files that the tokenizer wrote."""
    for file in folder.glob("*.json"):
        text = file.read_text("utf-8")
        with contextlib.suppress(ValueError):
            data = json.loads(text)
            if isinstance(data, dict) and data.pop("name_or_path", None) is not None:
                file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
                text = file.read_text("utf-8")
        if str(source) in text:
            file.write_text(text.replace(str(source), "model"), "utf-8")


def limit_length(folder: Path, length: int) -> None:
    """Let genai_config.json promise no more than `length` tokens.

    Its fields are `model.context_length` and `search.max_length`.
    """
    file = folder / "genai_config.json"
    if not length or not file.is_file():
        return
    config = read_json(file)
    if config["model"]["context_length"] > length:
        config["model"]["context_length"] = length
        config["search"]["max_length"] = min(length, config["search"]["max_length"])
        # As the builder writes it.
        file.write_text(json.dumps(config, indent=4), "utf-8")


def load(folder: Path) -> None:
    """Load a model that was made here as its users will.

    Raises RuntimeError when the runtime refuses it.
    """
    from olivebuild.ml.models.genai import open_model

    open_model(folder, trust=True)


def check_loads(job: Job, load: Callable[[], None]) -> None:
    """Raise StepError for a model that the builder wrote and the runtime refuses.

    Some sets of options give that.
    """
    try:
        load()
    except RuntimeError as e:
        first = first_line(e).replace(str(job.out.parent), "the model")
        hint = (
            "another combination of options may work: these two libraries disagree about this one"
        )
        raise StepError(
            f"the model builder made a model that onnxruntime-genai can't load: {first}",
            where=job.where(),
            hint=hint,
        ) from None
