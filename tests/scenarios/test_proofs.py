"""What the model builder and the runtime get wrong is found on a miniature: another computation, a
window, LongRoPE, numbers that do not fit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError, StepError
from olivebuild.formats.conversions import known_to_fail
from olivebuild.formats.source import Source
from olivebuild.ml.kernels.blockwise import is_finite
from olivebuild.ml.kinds import onnx as onnx_kind
from olivebuild.ml.models.genai import open_model
from olivebuild.ml.onnx import proof_cache, skeleton_cache
from olivebuild.ml.onnx.builder import limit_length
from olivebuild.ml.onnx.miniature import Miniature, Untried
from olivebuild.ml.onnx.trial import LIMITS, Difference, capacity, compare, not_finite
from olivebuild.steps.onnx import OnnxFields
from tests.scenarios.steps import files_in, given, job_in
from tests.support.tiny_models import make

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]

LARGE: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
    "num_attention_heads": 32, "num_key_value_heads": 8,
    "hidden_act": "silu",
    "vocab_size": 64000, "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 32000,
    "pad_token_id": 32000, "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}  # fmt: skip
FACTORS = {
    "short_factor": [1.0] * 32,
    "long_factor": [1.0 + i for i in range(32)],
    "type": "longrope",
}


def config(architecture: str, kind: str, **more: Any) -> dict[str, Any]:
    """In the style of config.json as it is published, with the sizes of a real model."""
    return LARGE | {"architectures": [f"{architecture}ForCausalLM"], "model_type": kind} | more


PUBLISHED = {
    "llama": config("Llama", "llama", rms_norm_eps=1e-5, rope_theta=500000.0),
    "window": config("Mistral", "mistral", rms_norm_eps=1e-5, sliding_window=300),
    "narrow window": config("Mistral", "mistral", rms_norm_eps=1e-5, sliding_window=24,
                            auto_map={"AutoConfig": "their.Config"}),
    "wide window": config("Mistral", "mistral", rms_norm_eps=1e-5, sliding_window=32768,
                          max_position_embeddings=131072),
    "mixed windows": config(
        "Gemma2", "gemma2", head_dim=64, sliding_window=300, query_pre_attn_scalar=64,
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
        hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True,
    ),
    "long rope": config(
        "Phi3", "phi3", num_key_value_heads=32, rms_norm_eps=1e-5,
        original_max_position_embeddings=300, sliding_window=262144, rope_scaling=FACTORS
    ),
    "longer rope": config(
        "Phi3", "phi3", num_key_value_heads=32, rms_norm_eps=1e-5,
        original_max_position_embeddings=8192, max_position_embeddings=131072,
        sliding_window=262144, rope_scaling=FACTORS,
    ),
    "no norm weights": config("Olmo", "olmo", num_key_value_heads=32, clip_qkv=None),
    "offset norms": config("Nemotron", "nemotron", head_dim=64, partial_rotary_factor=0.5,
                           hidden_act="relu2", norm_eps=1e-5),
}  # fmt: skip


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
VARIANTS: dict[str, tuple[dict[str, Any], bool]] = {
    "linear Llama": (config("Llama", "llama", rope_scaling={"type": "linear", "factor": 4.0}),
                     True),
    "linear Qwen": (config("Qwen2", "qwen2", rope_scaling={"type": "linear", "factor": 4.0}),
                    False),
    "dynamic Llama": (config("Llama", "llama", rope_scaling={"type": "dynamic", "factor": 2.0}),
                      False),
    "dynamic Qwen": (config("Qwen2", "qwen2", rope_scaling={"type": "dynamic", "factor": 2.0}),
                     True),
    "YaRN of Llama": (config("Llama", "llama", rope_scaling=YARN), True),
    "YaRN of Qwen": (config("Qwen3", "qwen3", head_dim=64, rope_scaling=YARN), True),
    "YaRN with betas": (config("Qwen2", "qwen2",
                               rope_scaling=YARN | {"factor": 32.0, "beta_fast": 32.0,
                                                    "beta_slow": 1.0}), True),
    "YaRN of gpt-oss": (config("Qwen2", "qwen2",
                               rope_scaling=YARN | {"beta_fast": 32.0, "beta_slow": 1.0,
                                                    "truncate": False}), False),
    "YaRN of SmolLM3": (config("SmolLM3", "smollm3", no_rope_layers=[1] * 24,
                               layer_types=["full_attention"] * 24, rope_scaling=YARN), True),
    "LongRoPE of Llama": (config("Llama", "llama",
                                 rope_scaling=FACTORS | {"original_max_position_embeddings": 300,
                                                         "factor": 27.3}), True),
    "Phi-3 of two lengths": (config("Phi3", "phi3", rope_scaling=None, sliding_window=None), True),
    "Phi-3 of one length": (config("Phi3", "phi3", original_max_position_embeddings=8192,
                                   rope_scaling=None, sliding_window=None), False),
    "Phi-1.5": (config("Phi", "phi", hidden_act="gelu_new", layer_norm_eps=1e-5,
                       partial_rotary_factor=0.5, qk_layernorm=False), False),
    "Phi with norms of queries": (config("Phi", "phi", hidden_act="gelu_new", layer_norm_eps=1e-5,
                                         qk_layernorm=True), True),
    "Gemma-2B": (config("Gemma", "gemma", head_dim=256, hidden_act="gelu_pytorch_tanh",
                        num_key_value_heads=1, tie_word_embeddings=True), True),
    "Gemma-2-2b": (PUBLISHED["mixed windows"] | {"hidden_size": 2304}, False),
}  # fmt: skip
"""Configurations of architectures that the builder knows, and whether `plan` is to refuse them in
float32.
"""


@pytest.mark.parametrize("name", VARIANTS)
def test_plan_refuses_what_comes_out_wrong_and_nothing_else(
    name: str, tmp_path: Path, store: Store
) -> None:
    given, refused = VARIANTS[name]
    told = known_to_fail(given | {"torch_dtype": "float32"}, "fp32")
    found = proven(tmp_path / "job", store, given, "float32", precision="fp32")
    assert bool(told) == refused
    assert bool(found.wrong or found.untried) == refused, found


def proven(
    place: Path, store: Store, model: dict[str, Any], dtype: str = "bfloat16", **fields: Any
) -> Any:
    return proof_cache._compare(job_in(place, store), OnnxFields(**fields), model, dtype)


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("llama", 0),
        ("window", 300),
        ("narrow window", 24),
        ("wide window", 32768),
        ("mixed windows", 0),
        ("long rope", 300),
        ("longer rope", 8192),
    ],
)
def test_the_length_up_to_which_both_compute_the_same(
    name: str, length: int, tmp_path: Path, store: Store
) -> None:
    proof = proven(tmp_path / "job", store, PUBLISHED[name])
    assert (proof.wrong, proof.untried, proof.length) == ("", "", length)
    assert bool(proof.fault) == bool(length)


def test_another_computation_is_told_for_every_precision(tmp_path: Path, store: Store) -> None:
    """OLMo's norms take the mean away, and the builder writes norms that do not."""
    for precision in ("fp32", "int4"):
        assert (
            "logits differ by"
            in proven(
                tmp_path / precision, store, PUBLISHED["no norm weights"], precision=precision
            ).wrong
        )


def test_what_is_rounded_to_the_weights_format_is_wrong_in_float32_alone(
    tmp_path: Path, store: Store
) -> None:
    """The builder adds one to the weights of such norms in the format that they are stored in."""
    wrong = proven(tmp_path / "fp32", store, PUBLISHED["offset norms"], precision="fp32")
    assert (wrong.broken, wrong.inexact) == (False, False)
    assert "rounding explains 0.0001" in wrong.wrong
    assert not proven(tmp_path / "int4", store, PUBLISHED["offset norms"], precision="int4").wrong
    assert not proven(
        tmp_path / "exact", store, PUBLISHED["offset norms"], "float32", precision="fp32"
    ).wrong


@pytest.mark.parametrize("size", [64, 80, 96, 112, 128, 160])
def test_heads_of_every_size_are_tried_without_a_false_alarm(
    size: int, tmp_path: Path, store: Store
) -> None:
    """The builder takes products with as many outputs as there are tokens for the head, so a
    miniature's sizes must not meet.
    """
    given = PUBLISHED["llama"] | {
        "head_dim": size,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
    for precision in ("fp32", "int4"):
        proof = proven(tmp_path / precision, store, given, precision=precision)
        assert (proof.wrong, proof.untried, proof.fault) == ("", "", "")


def test_a_runtime_that_fails_is_told_as_a_fault(tmp_path: Path, store: Store) -> None:
    """Its rotary kernel takes parts of a head in eights."""
    assert (
        "onnxruntime-genai fails: "
        in proven(tmp_path / "job", store, PUBLISHED["offset norms"] | {"head_dim": 24}).wrong
    )


def test_a_miniature_has_a_layer_of_each_kind() -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    mini = Miniature.of(PUBLISHED["mixed windows"] | {"layer_types": kinds * 8}, 64)
    assert mini.config["layer_types"] == kinds
    assert mini.config["num_hidden_layers"] == 3
    assert mini.config["hidden_size"] % 64 == 0
    assert mini.config["head_dim"] == 64
    far = Miniature.of(
        PUBLISHED["longer rope"]
        | {"sliding_window": 6000, "original_max_position_embeddings": 16384},
        64,
    )
    assert far.boundaries == ((6000, 1024), (16384, 1104))
    assert (far.config["sliding_window"], far.config["original_max_position_embeddings"]) == (
        1024,
        1104,
    )
    # Their share is LongRoPE's factor.
    assert far.config["max_position_embeddings"] == 8 * 1104
    with pytest.raises(Untried):
        Miniature.of({"model_type": "of no library"}, 64)


# The step


def converted(place: Path, store: Store, model: Path, **fields: Any) -> Path:
    """The folder that the step makes."""
    job = job_in(place, store, {"model": given(store, model)}, fields={"model": "base", **fields})
    onnx_kind.run(job)
    if job.result.manifest:
        store.restore(store.manifest(job.result.manifest), job.out)
    return job.out


@pytest.mark.parametrize(
    "options", [{"block_size": 32}, {"algorithm": "rtn"}], ids=["by tensors", "whole"]
)
def test_a_config_promises_the_length_that_works_and_is_the_builders_otherwise(
    options: dict[str, Any],
    tiny_model: Path,
    tmp_path: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime_genai as og

    make("phi3", tmp_path / "model", tiny_model, sliding_window=60)
    out = converted(tmp_path / "a", store, tmp_path / "model", **options)
    says = json.loads((out / "genai_config.json").read_text())
    assert (says["model"]["context_length"], says["search"]["max_length"]) == (60, 60)
    model = og.Model(str(out))
    for length, taken in ((57, True), (61, False)):
        generator = og.Generator(model, og.GeneratorParams(model))
        if taken:
            generator.append_tokens(np.ones(length, np.int32))
            continue
        with pytest.raises(RuntimeError, match=r"exceeds max length \(60\)"):
            generator.append_tokens(np.ones(length, np.int32))

    monkeypatch.setattr(onnx_kind, "limit_length", lambda folder, length: None)
    theirs = converted(tmp_path / "b", store, tmp_path / "model", **options)
    promised = json.loads((theirs / "genai_config.json").read_text())
    assert (promised["model"]["context_length"], promised["search"]["max_length"]) == (512, 512)
    limit_length(theirs, 60)
    assert files_in(theirs) == files_in(out)


def test_what_an_architecture_decides_is_proven_once(
    tiny_model: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("phi3", tmp_path / "first", tiny_model, sliding_window=60)
    make("phi3", tmp_path / "second", tiny_model, sliding_window=60, seed=1)
    converted(tmp_path / "a", store, tmp_path / "first", block_size=32)

    def must_not_run(*given: Any, **named: Any) -> None:
        raise AssertionError("the builder was asked again")

    for module in (onnx_kind, skeleton_cache, proof_cache):
        monkeypatch.setattr(module, "run_builder", must_not_run)
    out = converted(tmp_path / "b", store, tmp_path / "second", block_size=32)
    assert json.loads((out / "genai_config.json").read_text())["model"]["context_length"] == 60


def test_a_conversion_that_computes_something_else_fails(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    make("gemma", tmp_path / "model", tiny_model)
    with pytest.raises(
        StepError, match=r"a small GemmaForCausalLM converted to fp32 .* rounding explains 0\.0001"
    ) as caught:
        converted(tmp_path / "a", store, tmp_path / "model", precision="fp32")
    assert "precision: int4 or int8 is possible" in (caught.value.hint or "")
    converted(tmp_path / "b", store, tmp_path / "model", precision="int8")


def changed(model: Path, name: str, change: Callable[[Any], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    change(tensors[name])
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


FLOAT16 = (
    {"precision": "fp16", "provider": "cuda"},
    {"precision": "int4", "provider": "cuda"},
    {"algorithm": "rtn", "provider": "cuda"},
)


@pytest.mark.parametrize("options", FLOAT16, ids=["fp16", "int4", "whole"])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight"]
)
def test_a_weight_beyond_float16_is_named(
    options: dict[str, Any], name: str, llama: Path, tmp_path: Path, store: Store
) -> None:
    shutil.copytree(llama, tmp_path / "model")
    changed(tmp_path / "model", name, lambda tensor: tensor.flatten()[:1].fill_(1e5))
    with pytest.raises(
        InputError,
        match=name.removesuffix("weight").removesuffix("input_layernorm.").replace(".", r"\."),
    ) as caught:
        converted(tmp_path / "a", store, tmp_path / "model", **options)
    assert "bf16 or fp32" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "options",
    [{"block_size": 32}, {"precision": "fp32"}, {"algorithm": "k_quant"}, {"algorithm": "rtn"}],
)
def test_a_weight_that_is_no_number_is_named(
    options: dict[str, Any], llama: Path, tmp_path: Path, store: Store
) -> None:
    shutil.copytree(llama, tmp_path / "model")
    changed(
        tmp_path / "model",
        "model.layers.1.mlp.down_proj.weight",
        lambda tensor: tensor[3, 5:6].fill_(float("nan")),
    )
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.down_proj"):
        converted(tmp_path / "a", store, tmp_path / "model", **options)


def test_an_onnx_folder_from_elsewhere_is_opened(llama: Path, tmp_path: Path, store: Store) -> None:
    made = converted(tmp_path / "a", store, llama, block_size=32)

    def brought(name: str) -> Path:
        theirs = str(tmp_path / f"theirs-{name}")
        job = job_in(tmp_path / name, store, files={"source": [theirs]})
        onnx_kind.import_folder(job, Source(theirs, "file", theirs), trust=False)
        return job.out

    shutil.copytree(made, tmp_path / "theirs-whole")
    assert files_in(brought("whole")) == files_in(made)
    for name, fact in (
        ("model.onnx", "names model.onnx, which is not there"),
        ("model.onnx.data", "the weights in model.onnx.data are not there"),
    ):
        shutil.copytree(made, tmp_path / f"theirs-{name}")
        (tmp_path / f"theirs-{name}" / name).unlink()
        with pytest.raises(InputError, match=fact):
            brought(name)
    shutil.copytree(made, tmp_path / "theirs-other")
    (tmp_path / "theirs-other/genai_config.json").write_text("[]")
    with pytest.raises(InputError, match="not one of onnxruntime-genai"):
        brought("other")
    shutil.copytree(made, tmp_path / "theirs-options")
    config = json.loads((made / "genai_config.json").read_text("utf-8"))
    config["model"]["decoder"]["session_options"] = "$(touch evil)"
    (tmp_path / "theirs-options/genai_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="can't load the model"):
        brought("options")
    # The runtime quotes the operator's name in its message.
    shutil.copytree(made, tmp_path / "theirs-bytes")
    graph = (made / "model.onnx").read_bytes().replace(b"MatMulNBits", b"MatMulNB\xff\xffs")
    (tmp_path / "theirs-bytes/model.onnx").write_bytes(graph)
    with pytest.raises(RuntimeError, match="a file is damaged"):
        open_model(tmp_path / "theirs-bytes", trust=True)


# Figures


def test_limits_tell_rounding_from_another_model() -> None:
    random = np.random.default_rng(0)
    right: Any = random.standard_normal((8, 100))
    assert compare(right, right) == Difference(0.0, 0.0, 0.0)
    near = compare(right, right + 1e-5 * random.standard_normal((8, 100)))
    assert not near.beyond(LIMITS["fp32"])
    noisy = compare(right, right + 0.3 * random.standard_normal((8, 100)))
    assert not noisy.beyond(LIMITS["int4"])
    assert "rounding explains 0.0001" in noisy.beyond(LIMITS["fp32"])
    unlike: Any = random.standard_normal((8, 100))
    other = compare(right, unlike)
    assert all(other.beyond(limit) for limit in LIMITS.values())
    assert compare(right, right * np.nan).beyond(LIMITS["int4"]) == "logits are not finite"
    one = right.copy()
    one[0, 0] = np.inf
    assert compare(right, one).beyond(LIMITS["int4"]) == "logits are not finite"


def test_the_cache_of_layers_with_a_window_holds_the_window() -> None:
    def of(window: dict[str, Any]) -> dict[str, Any]:
        return {"model": {"context_length": 1000, "decoder": window}}

    assert capacity(of({}), 20) == 20
    assert capacity(of({"sliding_window": {"window_size": 300, "layers": []}}), 20) == 20
    assert capacity(of({"sliding_window": {"window_size": 300, "layers": [0]}}), 20) == 300
    assert capacity(of({"sliding_window": {"window_size": 300, "layers": [0]}}), 2000) == 1000


def test_initializers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    import onnx as library
    from onnx import TensorProto, helper, numpy_helper

    def saved(values: Any, kind: int | None = None) -> Path:
        tensor = (
            numpy_helper.from_array(values, "w")
            if kind is None
            else helper.make_tensor("w", kind, values.shape, values.tobytes(), raw=True)
        )
        graph = helper.make_graph(
            [helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [tensor]
        )
        library.save(
            helper.make_model(graph),
            tmp_path / "m.onnx",
            save_as_external_data=len(values) > 100,
            location="m.data",
            size_threshold=0,
        )
        return tmp_path / "m.onnx"

    for count in (10, 2000):
        (tmp_path / "m.data").unlink(missing_ok=True)
        values = np.ones(count, np.float16)
        assert not_finite(saved(values)) == ""
        values[-1] = np.inf
        (tmp_path / "m.data").unlink(missing_ok=True)
        assert not_finite(saved(values)) == "w"
    short = np.full(10, 0x3F80, np.uint16)
    assert is_finite(short, "BF16")
    assert not_finite(saved(short, TensorProto.BFLOAT16)) == ""
    short[3] = 0x7F80
    assert not is_finite(short, "BF16")
    assert not_finite(saved(short, TensorProto.BFLOAT16)) == "w"
