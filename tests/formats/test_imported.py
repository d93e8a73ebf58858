"""Folders from elsewhere: what they would have loaded takes the recipe's trust."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.formats import imported
from olivebuild.planner.checks.models import problems
from tests.formats.test_genai_config import folder_with, session, told
from tests.support.sites import Site


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
