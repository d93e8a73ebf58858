"""genai_config.json from elsewhere: what it would have the runtime load takes trust."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.formats import imported
from tests.support.require import require

WRITTEN: dict[str, Any] = {
    "model": {
        "bos_token_id": 1,
        "context_length": 131072,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx",
            "head_size": 96,
            "hidden_size": 3072,
            "inputs": {"input_ids": "input_ids", "past_key_names": "past_key_values.%d.key"},
            "outputs": {"logits": "logits", "present_key_names": "present.%d.key"},
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
        },
        "eos_token_id": [32007, 32001],
        "pad_token_id": 32000,
        "type": "phi3",
        "vocab_size": 32064,
    },
    "search": {
        "do_sample": False,
        "early_stopping": True,
        "max_length": 131072,
        "past_present_share_buffer": True,
        "temperature": 1.0,
    },
}
"""As the model builder writes it."""


STAGE = {
    "filename": "context.onnx",
    "inputs": ["past_keys_0", "input_hidden_states"],
    "outputs": ["output_hidden_states"],
    "run_on_token_gen": False,
    "session_options": {
        "log_id": "onnxruntime-genai",
        "intra_op_num_threads": 2,
        "provider_options": [
            {
                "qnn": {
                    "soc_model": "60",
                    "qnn_context_priority": "high",
                    "htp_graph_finalization_optimization_mode": "3",
                }
            }
        ],
    },
    "output_names_forwarder": {"present_keys_0": "past_keys_0"},
}


def session(**options: object) -> dict[str, Any]:
    given: dict[str, Any] = copy.deepcopy(WRITTEN)
    given["model"]["decoder"]["session_options"] |= options
    return given


def provider(name: str, **options: str) -> dict[str, Any]:
    return session(provider_options=[{name: options}])


def part(name: str, value: object) -> dict[str, Any]:
    given: dict[str, Any] = copy.deepcopy(WRITTEN)
    given["model"][name] = value
    return given


def decoder(**entries: object) -> dict[str, Any]:
    return part("decoder", WRITTEN["model"]["decoder"] | entries)


HARMLESS = {
    "cpu": WRITTEN,
    "cuda": provider("cuda", enable_cuda_graph="0", enable_skip_layer_norm_strict_mode="1"),
    "dml": provider("dml", enable_graph_capture="1"),
    "webgpu": provider(
        "webgpu",
        enableGraphCapture="0",
        validationMode="basic",
        multiRotaryCacheConcatOffset="4096",
    ),
    "tensorrt": provider("NvTensorRtRtx", enable_cuda_graph="1"),
    "threads": session(
        intra_op_num_threads=4, graph_optimization_level="ORT_ENABLE_ALL", enable_mem_pattern=True
    ),
    "entries": session(
        **{"session.intra_op.allow_spinning": "0", "ep.dynamic.workload_type": "Efficient"}
    ),
    "pipeline": decoder(
        pipeline=[{"prompt-processor": STAGE, "inputs": STAGE}],
        sliding_window={"window_size": 64, "layers": [0, 2]},
    ),
    "reads images": part(
        "vision",
        {
            "filename": "vision.onnx",
            "config_filename": "processor_config.json",
            "inputs": {"pixel_values": "pixels"},
        },
    ),
    "whisper": part(
        "encoder",
        {"filename": "encoder.onnx", "hidden_size": 384, "run_options": {"gpu_graph_id": "-1"}},
    ),
    "a later entry": decoder(some_number=4, layer_types=["full_attention", "sliding_attention"]),
}


LOADS = {
    "custom operators": (
        session(custom_ops_library="evil.so"),
        "session_options.custom_ops_library loads the library 'evil.so'",
    ),
    "of a stage": (
        decoder(pipeline=[{"a": STAGE | {"session_options": {"custom_ops_library": "/tmp/x.so"}}}]),
        "loads the library '/tmp/x.so'",
    ),
    "of a stage with an odd name": (
        decoder(pipeline=[{"inputs": {"session_options": {"custom_ops_library": "x"}}}]),
        "loads the library 'x'",
    ),
    "of a stage called filename": (
        decoder(pipeline={"filename": {"session_options": {"custom_ops_library": "x"}}}),
        "loads the library 'x'",
    ),
    "of an encoder": (
        part("encoder", {"filename": "e.onnx", "session_options": {"custom_ops_library": "ops"}}),
        "loads the library 'ops'",
    ),
    "of what draws up drafts": (
        part("draft", {"session_options": {"custom_ops_library": "ops"}}),
        "loads the library 'ops'",
    ),
    "backend": (
        provider("qnn", backend_path="libQnnHtp.so", soc_model="60"),
        "qnn.backend_path is 'libQnnHtp.so'",
    ),
    "an old name": (
        provider("QNNExecutionProvider", backend_path="x.dll"),
        "backend_path is 'x.dll'",
    ),
    "address": (
        provider("cuda", user_compute_stream="140735"),
        "cuda.user_compute_stream is '140735'",
    ),
    "allocator": (provider("cuda", gpu_external_alloc="4096"), "cuda.gpu_external_alloc"),
    "configuration": (
        provider("OpenVINO", device_type="NPU", load_config="../x.json"),
        "OpenVINO.load_config is '../x.json'",
    ),
    "cache": (provider("openvino", cache_dir="/home"), "openvino.cache_dir"),
    "another provider": (
        provider("VitisAI", config_file="vaip.json"),
        "VitisAI asks for a provider that may be any library",
    ),
    "a provider in a path": (provider("/tmp/evil"), "/tmp/evil asks for a provider"),
    "profile": (
        session(enable_profiling="/home/me/.bashrc"),
        "enable_profiling is '/home/me/.bashrc'",
    ),
    "weights elsewhere": (
        session(**{"session.model_external_initializers_file_folder_path": "/etc"}),
        "file_folder_path is '/etc'",
    ),
    "written graph": (
        session(**{"session.optimized_model_external_initializers_file_name": "x"}),
        "is not known to be harmless",
    ),
    "context": (session(**{"ep.context_file_path": "/tmp/x"}), "ep.context_file_path"),
    "of a run": (
        decoder(run_options={"qnn.lora_config": "l.txt"}),
        "run_options.qnn.lora_config is 'l.txt'",
    ),
    "above": (
        decoder(filename="../../m/model.onnx"),
        "decoder.filename is '../../m/model.onnx', outside the folder",
    ),
    "absolute": (decoder(filename="/etc/model.onnx"), "outside the folder"),
    "on another drive": (decoder(filename="C:\\models\\model.onnx"), "outside the folder"),
    "tokenizer": (part("tokenizer_dir", "../other"), "tokenizer_dir is '../other'"),
    "shared tensors": (
        decoder(shared_initializers=[{"name": "a", "data_file": "../w.bin", "shape": [1]}]),
        "data_file is '../w.bin'",
    ),
    "no graph": (decoder(filename="model.ort"), "only .onnx graphs can be looked into"),
    "a later file": (part("plugins", ["libevil.so"]), "plugins"),
    "a later library": (decoder(ep_library="libevil.so"), "decoder.ep_library is 'libevil.so'"),
}


def folder_with(place: Path, config: object) -> Path:
    place.mkdir(exist_ok=True)
    (place / "genai_config.json").write_text(
        config if isinstance(config, str) else json.dumps(config)
    )
    return place


def told(folder: Path, kind: str = "onnx") -> list[str]:
    return [f"{fault.file}: {fault.fact}" for fault in imported.faults(folder, kind)]


@pytest.mark.parametrize("config", HARMLESS.values(), ids=HARMLESS)
def test_what_is_published_for_the_runtime_needs_no_trust(config: object, tmp_path: Path) -> None:
    assert told(folder_with(tmp_path, config)) == []


@pytest.mark.parametrize(("config", "says"), LOADS.values(), ids=LOADS)
def test_what_has_the_runtime_load_more_than_weights_takes_trust(
    config: object, says: str, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, config)
    found = told(folder)
    assert len(found) == 1
    assert says in found[0]
    with pytest.raises(InputError, match=r"genai_config.json: ") as e:
        imported.check(folder, "onnx", "olivebuild.yaml", trust=False)
    assert "trust: true on the target" in e.value.hint
    imported.check(folder, "onnx", "olivebuild.yaml", trust=True)


@pytest.mark.parametrize(
    "text",
    [
        '{"model": {"decoder": {"session_options": {"custom_ops_library": "a.so", '
        '"custom_ops_library": ""}}}}',
        '{"model": {"decoder": {"session_options": {"custom_ops_library": "a.so"}}, '
        '"decoder": {}}}',
        '{"model": ' + "[" * 100_000,
        "\ufeff{}",
        "{",
    ],
)
def test_what_python_reads_otherwise_than_the_runtime_counts_as_unread(
    text: str, tmp_path: Path
) -> None:
    (found,) = told(folder_with(tmp_path, text))
    assert found.startswith("genai_config.json: can't be read: ")


def test_a_library_of_the_folder_is_loaded_only_with_trust(tmp_path: Path) -> None:
    """The library really runs where it is let: so the other half says something."""
    require("gcc", shutil.which("gcc"), "needs gcc")
    genai = pytest.importorskip("olivebuild.ml.models.genai")
    pytest.importorskip("onnxruntime_genai")
    canary, source = tmp_path / "canary", tmp_path / "evil.c"
    source.write_text(
        f"#include <stdio.h>\n__attribute__((constructor)) static void x(void) {{ "
        f'fclose(fopen("{canary}", "w")); }}\n'
    )
    folder = folder_with(tmp_path / "theirs", session(custom_ops_library="evil.so"))
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", str(folder / "evil.so"), str(source)], check=True
    )
    with pytest.raises(InputError, match=r"loads the library .evil\.so."):
        genai.open_model(folder, trust=False)
    assert not canary.exists()
    with pytest.raises(RuntimeError, match="RegisterCustomOps"):
        genai.open_model(folder, trust=True)
    assert canary.exists()
