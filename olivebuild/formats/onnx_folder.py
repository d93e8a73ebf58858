"""An ONNX folder from elsewhere, read against lists of what is harmless.

What onnxruntime-genai may be told, and the files that it may read.

genai_config.json can name a shared library, directly or by an option of a provider; the runtime
loads it when it opens the model. Known
to be harmless are the entries below (onnxruntime-genai's src/config.cpp, onnxruntime's
onnxruntime_session_options_config_keys.h and the
pages of its providers); an entry that is not known may hold numbers. A graph may name files that
are not the folder's, operators that only
a library brings, and compiled code for a device (EPContext). For all else the recipe must say
`trust: true`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from olivebuild.core.fs.files import files_below
from olivebuild.core.fs.small_files import read_json, read_text
from olivebuild.formats.foreign import Fault
from olivebuild.formats.onnx_file import Named, named_in

CONFIG = "genai_config.json"
READ = (
    "*.onnx",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.onnx_adapter",
    "LICENSE*",
    "NOTICE*",
)
"""Files that are taken; besides, those in which the graphs have their weights."""
DATA = ("*.onnx.data", "*.onnx_data*", "*.data")
"""What a hub's repository may call the files of a graph's weights, before the graph is there to
name them.
"""
TEXTS = {
    "type",
    "log_id",
    "graph_optimization_level",
    "name",
    "offset",
    "length",
    "audio_projection_mode",
}
NAMES = {"layer_types", "output_names_forwarder", "inputs", "outputs"}
"""Lists of names, and objects in which all values are names of the graph's inputs and outputs."""
FILES = {"filename", "config_filename", "adapter_filename", "data_file", "tokenizer_dir"}
SESSION = {
    "log_id", "graph_optimization_level", "session.disable_prepacking",
    "session.use_env_allocators", "session.set_denormal_as_zero",
    "session.disable_quant_qdq", "session.disable_double_qdq_remover",
    "session.enable_quant_qdq_cleanup", "session.dynamic_block_base",
    "session.inter_op.allow_spinning", "session.intra_op.allow_spinning",
    "session.force_spinning_stop", "session.qdqisint8allowed",
    "session.x64quantprecision", "session.intra_op_thread_affinities",
    "session.disable_cpu_ep_fallback", "session.load_model_format",
    "session.use_device_allocator_for_initializers", "session.strict_shape_type_inference",
    "session.allow_released_opsets_only",
    "session.qdq_matmulnbits_accuracy_level", "session.disable_aot_function_inlining",
    "optimization.enable_gelu_approximation",
    "optimization.disable_specified_optimizers", "optimization.enable_cast_chain_elimination",
    "mlas.enable_gemm_fastmath_arm64_bfloat16",
    "ep.dynamic.workload_type", "ep.context_embed_mode", "ep.share_ep_contexts",
    "ep.stop_share_ep_contexts",
}  # fmt: skip
RUN = {
    "gpu_graph_id", "disable_synchronize_execution_providers",
    "memory.enable_memory_arena_shrinkage", "qnn.htp_perf_mode",
    "qnn.htp_perf_mode_post_run", "qnn.rpc_control_latency",
}  # fmt: skip
_TENSORRT = {
    "device_id",
    "enable_cuda_graph",
    "nv_cuda_graph_enable",
    "nv_detailed_build_log",
    "nv_max_workspace_size",
}
PROVIDERS = {
    "cpu": set[str](),
    "cuda": {
        "device_id", "gpu_mem_limit", "arena_extend_strategy", "cudnn_conv_algo_search",
        "do_copy_in_default_stream", "use_tf32",
        "cudnn_conv_use_max_workspace", "cudnn_conv1d_pad_to_nc1d", "enable_cuda_graph",
        "tunable_op_enable", "tunable_op_tuning_enable",
        "tunable_op_max_tuning_duration_ms", "enable_skip_layer_norm_strict_mode", "prefer_nhwc",
        "use_ep_level_unified_stream",
        "fuse_conv_bias", "sdpa_kernel",
    },
    "dml": {
        "device_id", "device_index", "luid", "device_filter", "performance_preference",
        "disable_metacommands", "enable_graph_capture",
        "enable_graph_serialization", "enable_dynamic_graph_fusion",
    },
    "webgpu": {
        "deviceid", "preferredlayout", "enablegraphcapture", "validationmode",
        "storagebuffercachemode", "uniformbuffercachemode",
        "queryresolvebuffercachemode", "defaultbuffercachemode", "multirotarycacheconcatoffset",
        "dawnbackendtype", "powerpreference",
        "maxstoragebufferbindingsize", "preservedevice",
    },
    "trt-rtx": {*_TENSORRT, "multi_rotary_cache_concat_offset"},
    "nvtensorrtrtx": {*_TENSORRT, "multi_rotary_cache_concat_offset"},
    "qnn": {
        "backend_type", "device_id", "htp_arch", "htp_performance_mode",
        "htp_graph_finalization_optimization_mode", "soc_model",
        "qnn_context_priority", "enable_htp_fp16_precision", "enable_htp_weight_sharing",
        "enable_htp_shared_memory_allocator", "vtcm_mb",
        "offload_graph_io_quantization", "rpc_control_latency",
    },
    "openvino": {
        "device_type", "precision", "num_of_threads", "num_streams", "model_priority", "layout",
        "reshape_input", "workload_type",
        "enable_qdq_optimizer", "enable_causallm", "enable_opencl_throttling",
        "disable_dynamic_shapes",
    },
}  # fmt: skip
"""provider -> its options without files, libraries and addresses in memory.

Names as onnxruntime-genai's older ones, in lower case.
"""
DOMAINS = {
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "com.microsoft",
    "com.microsoft.nchwc",
    "com.microsoft.dml",
    "com.ms.internal.nhwc",
}
COMPILED = {"EPContext", "SNPE", "Snpe"}
"""Operators that hand a blob to a device's own driver or compiler."""


def faults(folder: Path) -> Iterator[Fault]:
    """Yield what the runtime would do with a folder that takes the recipe's trust."""
    config = folder / CONFIG
    if config.is_file():
        try:
            yield from _of_config(json.loads(read_text(config), object_pairs_hook=_once))
        except (ValueError, RecursionError) as e:
            yield Fault(f"can't be read: {e}", CONFIG)
    for path in graphs(folder):
        name = path.relative_to(folder).as_posix()
        try:
            yield from _of_graph(named_in(path), name)
        except (ValueError, OSError) as e:
            yield Fault(f"can't be read: {e}", name)


def graphs(folder: Path) -> list[Path]:
    return [path for path in files_below(folder) if path.suffix == ".onnx" and path.is_file()]


def taken(folder: Path, *, everything: bool = False) -> tuple[list[str], list[str]]:
    """(names of the files that a folder is taken to consist of, those that are left out).

    What begins with a dot, and .md, is neither.

    Raises ValueError where a graph can't be read.
    """
    names = [path.relative_to(folder).as_posix() for path in files_below(folder) if path.is_file()]
    shown = [
        name
        for name in names
        if not any(part.startswith(".") for part in name.split("/")) and not name.endswith(".md")
    ]
    if everything:
        return shown, []
    data = {*weights_in(folder), *_data_files(folder)}
    kept = [
        name
        for name in shown
        if name in data or any(fnmatch(name.rpartition("/")[2], pattern) for pattern in READ)
    ]
    return kept, [name for name in shown if name not in kept]


def weights_in(folder: Path) -> set[str]:
    """The names of the files that the graphs of a folder have their weights in.

    Raises ValueError.
    """
    return {
        (g.relative_to(folder).parent / file).as_posix()
        for g in graphs(folder)
        for file in named_in(g).files
    }


def _data_files(folder: Path) -> Iterator[str]:
    """Yield what genai_config.json names as files of its own."""
    try:
        config = read_json(folder / CONFIG)
    except (OSError, ValueError, RecursionError):
        return
    stack = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield from (v for k, v in value.items() if k in FILES and isinstance(v, str))
        stack += (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of an entry that stands twice the runtime acts on both, Python keeps one."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands in it twice")
    return unique


def _of_config(value: object, at: str = "") -> Iterator[Fault]:
    if isinstance(value, list):
        for i, inner in enumerate(value):
            if isinstance(inner, str):
                yield Fault(
                    f"{at}[{i}] is {_short(inner)}, and is not known to be harmless", CONFIG
                )
            yield from _of_config(inner, f"{at}[{i}]")
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        place = f"{at}.{name}" if at else name
        if name == "session_options":
            yield from _of_session(inner, place)
        elif name == "run_options":
            yield from _unknown(inner, RUN, place)
        elif isinstance(inner, str):
            if name in FILES:
                yield from _of_file(inner, name, place)
            elif name not in TEXTS:
                yield Fault(f"{place} is {_short(inner)}, and is not known to be harmless", CONFIG)
        elif not (name in NAMES and _are_names(inner)):
            # A stage of a pipeline may have any name, also that of a list.
            yield from _of_config(inner, place)


def _of_session(options: object, place: str) -> Iterator[Fault]:
    if not isinstance(options, dict):
        return
    yield from _unknown(
        {name: value for name, value in options.items() if name != "provider_options"},
        SESSION,
        place,
    )
    for entry in _listed(options.get("provider_options")):
        for provider, provider_options in entry.items() if isinstance(entry, dict) else ():
            harmless = PROVIDERS.get(provider.lower().removesuffix("executionprovider"))
            at = f"{place}.provider_options.{provider}"
            if harmless is None:
                yield Fault(f"{at} asks for a provider that may be any library", CONFIG)
            elif isinstance(provider_options, dict):
                lowered = {
                    name: value
                    for name, value in provider_options.items()
                    if name.lower() not in harmless and name != "device_filtering_options"
                }
                # An option of a provider is text also where it is a number: an address, perhaps.
                for name, value in lowered.items():
                    yield Fault(
                        f"{at}.{name} is {_short(value)}, and is not known to be harmless", CONFIG
                    )


def _unknown(options: object, harmless: Iterable[str], place: str) -> Iterator[Fault]:
    for name, value in options.items() if isinstance(options, dict) else ():
        if name == "custom_ops_library":
            yield Fault(f"{place}.{name} loads the library {_short(value)}", CONFIG)
        elif name not in harmless and not _is_number(value):
            yield Fault(
                f"{place}.{name} is {_short(value)}, and is not known to be harmless", CONFIG
            )


def _of_file(value: str, name: str, place: str) -> Iterator[Fault]:
    if value and not stays_inside(value):
        yield Fault(f"{place} is {value!r}, outside the folder", CONFIG)
    elif value and name == "filename" and not value.endswith(".onnx"):
        yield Fault(f"{place} is {value!r}: only .onnx graphs can be looked into", CONFIG)


def _of_graph(named: Named, name: str) -> Iterator[Fault]:
    for file in sorted(named.files):
        if not stays_inside(file):
            yield Fault(f"its weights lie in {file!r}, outside the folder", name)
    for domain, operator in sorted(named.operators):
        if domain not in DOMAINS:
            yield Fault(
                f"it calls {domain}:{operator}, which only a library of its own can have", name
            )
        elif operator in COMPILED:
            yield Fault(f"it holds compiled code for a device ({operator})", name)


def stays_inside(name: str) -> bool:
    """Return whether a relative name leads to below the folder that it is looked up in.

    On each system.
    """
    parts = name.replace("\\", "/").split("/")
    return (
        bool(name)
        and not name.startswith(("/", "\\", "*"))
        and ":" not in name
        and ".." not in parts
        and "\0" not in name
    )


def _are_names(value: object) -> bool:
    if isinstance(value, dict):
        return not FILES & value.keys() and all(
            isinstance(v, str) or (isinstance(v, list) and _are_names(v)) for v in value.values()
        )
    return isinstance(value, list) and all(
        isinstance(v, str) or (isinstance(v, dict) and _are_names(v)) for v in value
    )


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_number(value: object) -> bool:
    return (
        value is None
        or isinstance(value, int | float)
        or (isinstance(value, list) and all(isinstance(v, int | float) for v in value))
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def providers_in(folder: Path) -> list[str]:
    """Return the providers that a folder names, in small letters; none for a processor.

    A file that can't be read names none: loading it will tell.
    """
    try:
        parts = list(_parts_of_model(read_json(folder / CONFIG)["model"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
    return list(dict.fromkeys(name for part in parts for name in _provider_names(part)))


def _parts_of_model(model: dict[str, object]) -> Iterator[dict[str, object]]:
    """Yield decoder, embedding and the other parts of a model, and the stages of a pipeline."""
    for part in model.values():
        if not isinstance(part, dict):
            continue
        yield part
        for stages in part.get("pipeline") or ():
            yield from (stage for stage in stages.values() if isinstance(stage, dict))


def _provider_names(part: dict[str, object]) -> Iterator[str]:
    options = part.get("session_options")
    listed = options.get("provider_options") if isinstance(options, dict) else None
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict):
            yield from (str(name).lower() for name in entry)
