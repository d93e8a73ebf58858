"""Folders from elsewhere: what they would have loaded takes the recipe's trust."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.formats import imported, onnx_file, onnx_folder
from olivebuild.planner.checks.models import problems
from tests.support.require import require
from tests.support.sites import Site

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


# -- graphs


def graph_file(place: Path, change: Callable[[Any, Any], None] | None = None) -> Path:
    """A model of one node whose weight lies beside it; `change` gets the model and onnx.helper."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = helper.make_tensor("w", kinds.FLOAT, [2], [1.0, 2.0])
    value = [helper.make_tensor_value_info(name, kinds.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    )
    outside(model.graph.initializer[0], "model.onnx.data")
    if change:
        change(model, helper)
    place.mkdir(exist_ok=True)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    return place / "model.onnx"


def outside(tensor: Any, location: str) -> None:
    tensor.ClearField("float_data")
    tensor.data_location = 1
    for key, value in (("offset", "0"), ("location", location), ("length", "8")):
        tensor.external_data.add(key=key, value=value)


def in_a_branch(model: Any, helper: Any) -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "v"], ["z"])],
        "inner",
        [],
        [],
        [helper.make_tensor("v", 1, [2], [0.0, 0.0])],
    )
    outside(inner.initializer[0], "/etc/passwd")
    model.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    )


def in_a_function(model: Any, helper: Any) -> None:
    made = [helper.make_node("Op", ["a"], ["b"], domain="evil")]
    model.functions.append(
        helper.make_function("mine", "F", ["a"], ["b"], made, [helper.make_opsetid("evil", 1)])
    )


def own_function(model: Any, helper: Any) -> None:
    model.functions.append(
        helper.make_function(
            "mine",
            "F",
            ["a"],
            ["b"],
            [helper.make_node("Relu", ["a"], ["b"])],
            [helper.make_opsetid("", 21)],
        )
    )
    model.graph.node.append(helper.make_node("F", ["y"], ["z"], domain="mine"))


def constant(location: str) -> Callable[[Any, Any], None]:
    def change(model: Any, helper: Any) -> None:
        tensor = helper.make_tensor("c", 1, [2], [0.0, 0.0])
        outside(tensor, location)
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))

    return change


def node(kind: str, domain: str) -> Callable[[Any, Any], None]:
    return lambda model, helper: model.graph.node.append(
        helper.make_node(kind, ["x"], ["z"], domain=domain)
    )


GRAPHS: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "above": (
        lambda model, _: outside(model.graph.initializer[0], "../../../etc/passwd"),
        "its weights lie in '../../../etc/passwd', outside",
    ),
    "in a branch": (in_a_branch, "its weights lie in '/etc/passwd', outside"),
    "in an attribute": (constant("a/../../b"), "its weights lie in 'a/../../b'"),
    "in memory": (constant("*/_ORT_MEM_ADDR_/*"), "outside the folder"),
    "on Windows": (constant("..\\b"), "outside the folder"),
    "sparse": (
        lambda model, _: outside(model.graph.sparse_initializer.add().values, "/b"),
        "its weights lie in '/b'",
    ),
    "while training": (
        lambda model, _: outside(model.training_info.add().algorithm.initializer.add(), "/b"),
        "its weights lie in '/b'",
    ),
    "compiled": (
        node("EPContext", "com.microsoft"),
        "it holds compiled code for a device (EPContext)",
    ),
    "extensions": (
        node("PyOp", "ai.onnx.contrib"),
        "it calls ai.onnx.contrib:PyOp, which only a library",
    ),
    "torch": (node("ATen", "org.pytorch.aten"), "it calls org.pytorch.aten:ATen"),
    "in a function": (in_a_function, "it calls evil:Op"),
}


@pytest.mark.parametrize(("change", "says"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_leads_out_of_its_folder_takes_trust(
    change: Callable[[Any, Any], None], says: str, tmp_path: Path
) -> None:
    graph_file(tmp_path, change)
    (found,) = told(tmp_path)
    assert found.startswith("model.onnx: ")
    assert says in found


def test_a_graph_with_functions_of_its_own_and_the_runtimes_operators_needs_none(
    tmp_path: Path,
) -> None:
    def change(model: Any, helper: Any) -> None:
        own_function(model, helper)
        node("MatMulNBits", "com.microsoft")(model, helper)

    file = graph_file(tmp_path, change)
    assert told(tmp_path) == []
    found = onnx_file.named_in(file)
    assert found.files == {"model.onnx.data"}
    assert found.operators == {("", "Add"), ("", "Relu"), ("com.microsoft", "MatMulNBits")}


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[:-1],
        lambda d: d + b"\x3a\xff",
        lambda _: b"",
        lambda _: b"\xff" * 40,
        lambda d: b"\x3b" + d,
    ],
)
def test_a_graph_that_ends_early_or_is_none_is_told(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    file = graph_file(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    (found,) = told(tmp_path)
    assert found.startswith("model.onnx: can't be read: ")


def test_graphs_within_graphs_without_end_are_told(tmp_path: Path) -> None:
    data = b""
    for _ in range(3000):
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            data = tag + onnx_varint(len(data)) + data
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + onnx_varint(len(data)) + data)
    assert told(tmp_path) == ["model.onnx: can't be read: graphs lie too deep in one another"]


def onnx_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_the_weights_of_published_folders_are_fetched_with_the_graphs() -> None:
    names = (
        "phi3-mini-4k-instruct-cpu-int4-rtn-block-32.onnx.data",
        "onnx/model.onnx_data",
        "onnx/model.onnx_data_1",
        "cpu/model.data",
    )
    assert all(any(fnmatch(name, pattern) for pattern in onnx_folder.DATA) for name in names)


def test_only_what_the_runtime_reads_is_taken(tmp_path: Path) -> None:
    graph_file(folder_with(tmp_path, WRITTEN), constant("more/weights.bin"))
    for name in (
        "model.onnx.data",
        "more/weights.bin",
        "tokenizer.json",
        "LICENSE",
        "evil.so",
        "configuration_phi3.py",
        "w.pkl",
        ".git/x",
        "README.md",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    kept = [
        "LICENSE",
        "genai_config.json",
        "model.onnx",
        "model.onnx.data",
        "more/weights.bin",
        "tokenizer.json",
    ]
    assert onnx_folder.taken(tmp_path) == (kept, ["configuration_phi3.py", "evil.so", "w.pkl"])
    assert onnx_folder.taken(tmp_path, everything=True) == (
        sorted([*kept, "configuration_phi3.py", "evil.so", "w.pkl"]),
        [],
    )


# -- models and adapters


def test_a_model_may_not_name_kernels_of_the_hub(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "text_config": {"_attn_implementation": {"": "sdpa", "vision": "evil/flash@main:f"}},
    }
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"attn_implementation": "eager", "experts_implementation": "a/b"})
    )
    first, second = told(tmp_path, "model")
    assert (
        first
        == "config.json: _attn_implementation names 'evil/flash@main:f', compiled code from the hub"
    )
    assert "'a/b'" in second
    with pytest.raises(InputError, match=r"compiled code from the hub \(1 more of the kind\)") as e:
        imported.check(tmp_path, "model", None, trust=False)
    assert "trust_remote_code: true" in e.value.hint


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {
                "auto_mapping": {
                    "base_model_class": "M",
                    "parent_library": "transformers.models.llama.modeling_llama",
                }
            },
            "",
        ),
        ({"auto_mapping": None, "megatron_core": "megatron.core"}, ""),
        (
            {"auto_mapping": {"base_model_class": "M", "parent_library": "evil"}},
            "auto_mapping names the package 'evil'",
        ),
        (
            {"auto_mapping": {"base_model_class": "M", "parent_library": "transformers_modules.x"}},
            "'transformers_modules.x'",
        ),
        ({"auto_mapping": ["evil"]}, "auto_mapping names the package None"),
        ({"megatron_core": "antigravity"}, "megatron_core names the package 'antigravity'"),
    ],
)
def test_an_adapter_may_not_name_packages(
    entry: dict[str, object], says: str, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | entry))
    found = told(tmp_path, "adapter")
    assert len(found) == bool(says)
    assert all(says in fault for fault in found)


def test_a_plan_tells_what_takes_trust_with_its_place(tmp_path: Path) -> None:
    site = Site(
        tmp_path,
        "targets:\n  theirs: {kind: onnx, source: theirs}\n  lora: {kind: adapter, source: lora}\n",
    )
    folder_with(site.folder / "theirs", session(custom_ops_library="evil.so"))
    site.write(
        "lora/adapter_config.json",
        json.dumps({"peft_type": "LORA", "auto_mapping": {"parent_library": "evil"}}),
    )

    def facts() -> list[tuple[str, str, str]]:
        planner = site.planner()
        found = problems(planner, planner.plan(["theirs", "lora"]))
        assert all(problem.fails for problem in found)
        planner.traces.close()
        return [
            (problem.target, f"{problem.where.line}:{problem.where.column}", problem.fact[:40])
            for problem in found
        ]

    assert facts() == [
        ("theirs", "2:24", "genai_config.json: model.decoder.session"),
        ("lora", "3:25", "adapter_config.json: auto_mapping names "),
    ]
    site.edit("source: theirs", "trust: true, source: theirs")
    site.edit("source: lora", "trust: true, source: lora")
    assert facts() == []


def test_trust_is_no_option_of_the_model_builder() -> None:
    from olivebuild.ml.onnx.builder import builder_options
    from olivebuild.steps.onnx import OnnxFields

    assert builder_options(OnnxFields(precision="int4", block_size=32)) == {"block_size": 32}
