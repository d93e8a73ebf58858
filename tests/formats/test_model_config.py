"""What a model folder's small files tell before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.host import installed
from olivebuild.formats.model_config import (
    architectures_of_builder,
    context_of,
    methods_of_builder,
    types_of_transformers,
)
from tests.conftest import Place
from tests.formats.test_safetensors import write
from tests.support.bases import LLAMA, RECIPE, base_site, found, make_base, only
from tests.support.sites import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return base_site(tmp_path)


@pytest.mark.parametrize("goal", ["onnx", "whole", "merged", "bench"])
def test_nothing_is_said_of_a_model_that_all_can_be_made_of(site: Site, goal: str) -> None:
    make_base(site.folder / "base")
    assert found(site, goal) == []


@pytest.mark.parametrize(
    ("architecture", "kind"), [("Olmo2ForCausalLM", "olmo2"), ("Qwen3MoeForCausalLM", "qwen3_moe")]
)
def test_an_architecture_that_the_model_builder_does_not_know(
    site: Site, architecture: str, kind: str
) -> None:
    make_base(site.folder / "base", architectures=[architecture], model_type=kind)
    problem = only(site, "onnx")
    assert problem.fact == (
        f"the model builder (onnxruntime-genai {installed('onnxruntime-genai')}) does not know "
        f"{architecture}"
    )
    assert (problem.target, str(problem.where), problem.nodes, problem.fails) == (
        "onnx",
        "olivebuild.yaml:7:22",
        ("onnx",),
        True,
    )
    # With the adapter on the target itself the same is found, and of what is not converted nothing.
    assert only(site, "whole").target == "whole"
    assert found(site, "merged") == []


def test_the_sources_of_the_installed_libraries_are_read_as_they_mean_it() -> None:
    from transformers.models.auto.configuration_auto import (  # type: ignore[attr-defined]
        CONFIG_MAPPING_NAMES,
    )
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert types_of_transformers() == (
        dict(CONFIG_MAPPING_NAMES),
        frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    )
    assert architectures_of_builder() >= {
        "LlamaForCausalLM",
        "Phi3ForCausalLM",
        "Gemma3ForCausalLM",
        "ChatGLMModel",
    }
    assert methods_of_builder() >= {"awq", "gptq", "olive", "compressed-tensors"}


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}, "rope_type"),
        (
            {
                "architectures": ["SmolLM3ForCausalLM"],
                "model_type": "smollm3",
                "no_rope_layers": [1, 1, 1, 0],
            },
            "without rotary positions",
        ),
        (
            {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3"},
            "without rotary positions",
        ),
        ({"architectures": ["OlmoForCausalLM"], "model_type": "olmo"}, "subtract the mean"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling"),
    ],
)
def test_what_is_known_to_fail_is_said_with_the_reason_and_the_versions(
    site: Site, changes: dict[str, Any], because: str
) -> None:
    make_base(site.folder / "base", **changes)
    problem = only(site, "onnx")
    assert (
        f"can't convert {changes.get('architectures', LLAMA['architectures'])[0]}" in problem.fact
    )
    assert because in problem.fact
    assert f"onnxruntime-genai {installed('onnxruntime-genai')}" in problem.fact
    assert problem.hint.startswith("versions that work: ")


@pytest.mark.parametrize(
    ("precision", "dtype", "width", "refused"),
    [
        ("fp32", "bfloat16", 2304, True),
        ("int4", "bfloat16", 2304, False),
        ("fp32", "float32", 2304, False),
        ("fp32", "float32", 3584, True),
    ],
)
def test_what_the_builder_rounds_is_refused_where_nothing_else_rounds(
    site: Site, precision: str, dtype: str, width: int, refused: bool
) -> None:
    make_base(
        site.folder / "base",
        architectures=["Gemma2ForCausalLM"],
        model_type="gemma2",
        torch_dtype=dtype,
        hidden_size=width,
    )
    site.edit(
        "onnx: {kind: onnx, model: merged, precision: int4}",
        f"onnx: {{kind: onnx, model: merged, precision: {precision}}}",
    )
    assert bool(found(site, "onnx")) is refused


def test_a_model_without_a_tokenizer_is_told_where_texts_are_read(site: Site) -> None:
    make_base(site.folder / "base")
    assert found(site, "onnx") == []
    (site.folder / "base" / "tokenizer.json").unlink()
    problem = only(site, "adapter")
    assert (problem.target, problem.fact) == ("base", "the model's folder has no tokenizer")


@pytest.mark.parametrize(
    "place",
    ["tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"],
)
def test_a_model_without_a_chat_template_is_told_where_rows_take_one(
    site: Site, place: str
) -> None:
    make_base(site.folder / "base")
    (site.folder / "base" / "chat_template.jinja").unlink()
    problem = only(site, "adapter")
    assert problem.fact == "the model has no chat template, by which the rows of tone are rendered"
    assert str(problem.where).startswith("olivebuild.yaml:5:")
    file = site.folder / "base" / place
    file.parent.mkdir(exist_ok=True)
    given = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(
        json.dumps(given | {"chat_template": "{{ messages }}"})
        if place.endswith(".json")
        else "{{ messages }}"
    )
    assert found(site, "adapter") == []
    file.unlink()
    site.edit('user: "{phrase}", assistant: "{tone}"', 'prompt: "{phrase}", completion: "{tone}"')
    assert found(site, "adapter") == []


def test_a_model_with_rotary_positions_in_all_layers_is_not_one_that_fails(site: Site) -> None:
    make_base(
        site.folder / "base",
        architectures=["SmolLM3ForCausalLM"],
        model_type="smollm3",
        no_rope_layers=[1, 1, 1, 1],
    )
    assert found(site, "onnx") == []


INTERNLM: dict[str, Any] = {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "auto_map": {
        "AutoConfig": "configuration_internlm2.InternLM2Config",
        "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
    },
}


def test_code_of_the_model_s_own_is_refused_with_the_field_that_allows_it(site: Site) -> None:
    make_base(site.folder / "base", **INTERNLM)
    problem = only(site, "adapter", "onnx")
    assert (problem.target, str(problem.where)) == ("base", "olivebuild.yaml:3:23")
    assert "InternLM2ForCausalLM" in problem.fact
    assert problem.hint.startswith(
        "trust_remote_code: true on the model would let it run its own code"
    )
    site.edit("source: base}", "source: base, trust_remote_code: true}")
    assert found(site, "adapter", "onnx") == []


def test_code_that_a_known_architecture_does_not_need_is_no_error(site: Site) -> None:
    make_base(
        site.folder / "base",
        architectures=["Phi3ForCausalLM"],
        model_type="phi3",
        auto_map=INTERNLM["auto_map"],
        original_max_position_embeddings=512,
    )
    assert found(site, "onnx") == []


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        (
            {"architectures": ["NewForCausalLM"], "model_type": "new_type"},
            "does not know NewForCausalLM (model_type new_type)",
        ),
        ({"architectures": ["CLIPModel"], "model_type": "clip"}, "is not a causal language model"),
        ({"architectures": None}, "config.json names no `architectures`"),
        ({"architectures": []}, "config.json names no `architectures`"),
    ],
)
def test_a_model_that_can_not_be_loaded_is_one_error_whatever_is_made_of_it(
    site: Site, changes: dict[str, Any], fact: str
) -> None:
    make_base(site.folder / "base", **changes)
    problem = only(site, "onnx", "whole", "bench")
    assert fact in problem.fact
    assert problem.target == "base"
    assert {"adapter", "merged", "onnx", "whole"} <= set(problem.nodes)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '{"eos_token_id": 2}\n{', "\ufeff{}", "[" * 100_000, '{"a": %s}' % ("9" * 5000)],
)
@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_a_small_file_that_is_no_json_object_is_told_before_anything_runs(
    site: Site, name: str, text: str
) -> None:
    make_base(site.folder / "base")
    (site.folder / "base" / name).write_text(text)
    problem = only(site, "onnx", "merged")
    assert problem.fact.startswith(f"{name} can't be read: ")
    assert (problem.target, str(problem.where)) == ("base", "olivebuild.yaml:3:23")


@pytest.mark.parametrize(
    ("file", "changes", "fact"),
    [
        (
            "config.json",
            {"num_hidden_layers": 2**31},
            "config.json says num_hidden_layers 2147483648, and the weights are 2 tensors",
        ),
        (
            "config.json",
            {"vision_config": {"encoder_layers": 10**6}},
            "config.json says encoder_layers 1000000, and the weights are 2 tensors",
        ),
        (
            "config.json",
            {"num_labels": 10**12},
            "config.json says num_labels 1000000000000, and the weights are 2 tensors",
        ),
        (
            "config.json",
            {"num_local_experts": 10**5},
            "config.json says num_local_experts 100000, and the weights are 2 tensors",
        ),
        (
            "config.json",
            {"eos_token_id": [[1]]},
            "config.json says eos_token_id [[1]], which is not a number",
        ),
        (
            "generation_config.json",
            {"eos_token_id": {"a": 1}},
            "generation_config.json says eos_token_id {'a': 1}, which is not a number",
        ),
        (
            "tokenizer_config.json",
            {"model_max_length": [[]]},
            "tokenizer_config.json says model_max_length [[]], which is not a number",
        ),
        (
            "config.json",
            {"num_hidden_layers": 900, "eos_token_id": [1, 2], "max_position_embeddings": 10**7},
            "",
        ),
        *(
            (
                "config.json",
                {name: 1 << 40},
                f"config.json says {name} 1099511627776, and no dimension of the weights is "
                "longer than",
            )
            for name in ("hidden_size", "intermediate_size", "num_attention_heads", "head_dim")
        ),
        (
            "config.json",
            {"max_position_embeddings": 1 << 40},
            "config.json says max_position_embeddings 1099511627776, which is more tokens than any "
            "model takes",
        ),
        ("config.json", {"hidden_size": 10**400}, f"config.json says hidden_size 1{'0' * 39}, and"),
        ("generation_config.json", {"eos_token_id": 2, "bos_token_id": None}, ""),
        ("tokenizer_config.json", {"model_max_length": 1e30}, ""),
    ],
)
def test_numbers_that_can_not_be_true_are_told_before_a_loader_takes_them(
    site: Site, file: str, changes: dict[str, Any], fact: str
) -> None:
    """Some would have it build modules for hours."""
    make_base(site.folder / "base")
    path = site.folder / "base" / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))
    facts = [problem.fact for problem in found(site, "merged")]
    assert len(facts) == bool(fact)
    assert "".join(facts).startswith(fact)


def test_a_length_beyond_the_context_is_noted_and_does_not_fail(site: Site) -> None:
    make_base(site.folder / "base")
    site.edit("{steps: 1}", "{steps: 1, max_length: 513}")
    problem = only(site, "adapter")
    assert (problem.fact, problem.fails) == (
        "max_length 513 is more than the 512 tokens that the model takes",
        False,
    )
    assert str(problem.where) == "olivebuild.yaml:5:80"
    site.edit("max_length: 513", "max_length: 512")
    assert found(site, "adapter") == []


def test_the_context_is_where_a_configuration_has_it() -> None:
    assert context_of({"max_position_embeddings": 7}) == 7
    assert context_of({"n_positions": 8}) == 8
    assert (
        context_of({"text_config": {"max_position_embeddings": 9}, "max_position_embeddings": 7})
        == 9
    )
    assert context_of({}) is None


def test_plan_and_build_tell_it_before_anything_runs_and_import_nothing_heavy(place: Place) -> None:
    make_base(place.folder / "base", architectures=["Olmo2ForCausalLM"], model_type="olmo2")
    place.recipe.write_text(RECIPE)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    (place.folder / "rows.jsonl").write_text(
        "".join(
            json.dumps({"phrase": w, "tone": f"tone {i % 2}"}) + "\n" for i, w in enumerate(words)
        )
    )
    program = (
        "import sys; sys.argv = ['olivebuild', 'plan', '--json']; from "
        "olivebuild.cli.main import run\n"
        "try: run()\nfinally: print(sorted({'torch', 'transformers', 'peft', 'onnx', "
        "'onnxruntime', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = {"OLIVEBUILD_CACHE": str(place.cache)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (1, "[]")
    told = json.loads(done.stdout)
    (problem,) = told["problems"]
    assert (problem["target"], problem["where"], told["notes"]) == (
        "onnx",
        "olivebuild.yaml:7:22",
        [],
    )
    assert {row["target"] for row in told["targets"]} == {
        "base",
        "tone",
        "adapter",
        "merged",
        "onnx",
    }
    built = place.run("build")
    assert built.code == 1
    assert "does not know Olmo2ForCausalLM" in built.err
    assert "run " not in built.out
    # What nothing but the impossible needs is not made with -k either; the data set is a goal here.
    kept = place.run("build", "-k", "onnx", "tone")
    assert kept.code == 1
    assert [
        line.split()[1] for line in kept.out.splitlines() if line.startswith(("run", "failed"))
    ] == ["onnx", "tone"]


def test_weight_files_that_no_loader_reads_are_told(site: Site) -> None:
    make_base(site.folder / "base")
    assert found(site, "onnx") == []
    write(site.folder / "base" / "model_before.safetensors", {"layer": ("U8", [1], b"x")})
    (problem,) = found(site, "onnx")
    assert (problem.fact, problem.fails) == (
        "model_before.safetensors in the model's folder will be ignored",
        False,
    )
    assert (str(problem.where), problem.hint) == (
        "olivebuild.yaml:3:23",
        "loaders read model.safetensors",
    )
