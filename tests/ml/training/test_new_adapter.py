"""New adapters: which layers they stand beside, and names that no layer has."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import Phi3Config, Phi3ForCausalLM

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.ml.training.new_adapter import (
    adapted_layers,
    add_adapter,
    begin_with,
    configuration,
)
from olivebuild.steps.adapter import AdapterFields
from tests.support.tiny_models import COMMON

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
]
SMALL = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 32, "sliding_window": None}


@pytest.fixture
def model() -> Any:
    """Two layers of a Phi-3, whose linear layers are qkv_proj, o_proj, gate_up_proj, down_proj."""
    torch.manual_seed(0)
    return Phi3ForCausalLM(Phi3Config(**(COMMON | SMALL)))


def fields_of(**fields: Any) -> AdapterFields:
    return AdapterFields.model_validate({"model": "base", "data": "rows", "r": 2, **fields})


def job(fields: AdapterFields) -> tuple[Job, io.StringIO]:
    places: dict[str, list[object]] = {
        "": ["olivebuild.yaml", 2, 3, ""],
        "modules": ["olivebuild.yaml", 3, 5, ""],
        "rank_pattern": ["olivebuild.yaml", 4, 5, ""],
        "exclude": ["olivebuild.yaml", 5, 5, ""],
        "layers": ["olivebuild.yaml", 6, 5, ""],
        "from": ["olivebuild.yaml", 7, 5, ""],
    }
    said = io.StringIO()
    action = Action(
        "tune", "tune", "adapter", "", fields.model_dump(), {}, {}, "", "", places=places
    )
    return Job(action, said), said


def added(model: Any, **fields: Any) -> tuple[Any, str]:
    """Return peft's model, and the notes that were made."""
    choices = fields_of(**fields)
    work, said = job(choices)
    return add_adapter(work, choices, model), said.getvalue()


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({"modules": "all-linear"}, 8),
        ({"modules": ["o_proj"]}, 2),
        ({"modules": "all-linear", "layers": [1]}, 4),
        ({"modules": "all-linear", "exclude": ["o_proj"]}, 6),
        ({"modules": "all-linear", "exclude": ["layers.0.self_attn.o_proj"], "layers": [0]}, 3),
        ({"modules": ["o_proj"], "method": "loha"}, 2),
        ({"modules": ["o_proj"], "method": "lokr"}, 2),
        ({"modules": ["o_proj"], "dora": True}, 2),
    ],
)
def test_which_layers_get_an_adapter(model: Any, fields: dict[str, Any], layers: int) -> None:
    wrapped, notes = added(model, **fields)
    names = adapted_layers(wrapped)
    assert len(names) == layers
    assert all(name.startswith("model.layers.") for name in names)
    assert not notes


def test_a_name_that_is_one_of_several_is_told_alone(model: Any) -> None:
    wrapped, notes = added(model, modules=["o_proj", "q_proj"])
    assert len(adapted_layers(wrapped)) == 2
    assert "the model has no module q_proj, so that none gets an adapter" in notes


@pytest.mark.parametrize(
    ("fields", "fact", "line"),
    [
        ({"modules": ["q_proj"]}, "no adapter for these modules: ", 3),
        # peft has no default for this architecture.
        ({"modules": "peft-default"}, "no adapter for these modules: ", 3),
        (
            {"modules": "all-linear", "exclude": ["v_proj"]},
            "the model has no module v_proj to exclude",
            5,
        ),
        (
            {"modules": "all-linear", "exclude": ["proj"]},
            "the model has no module proj to exclude",
            5,
        ),
        ({"modules": "all-linear", "layers": [0, 2]}, "the model has no layer 2", 6),
        (
            {"modules": ["o_proj"], "rank_pattern": {"down_proj": 4}},
            "rank_pattern: 'down_proj' fits no layer that gets an adapter",
            4,
        ),
    ],
)
def test_what_the_model_does_not_have_is_one_error(
    model: Any, fields: dict[str, Any], fact: str, line: int
) -> None:
    with pytest.raises(InputError) as caught:
        added(model, **fields)
    assert caught.value.fact.startswith(fact)
    assert str(caught.value.where) == f"olivebuild.yaml:{line}:5"
    assert caught.value.hint


def test_a_pattern_of_ranks_changes_the_layers_that_it_fits(model: Any) -> None:
    wrapped, _ = added(model, modules=["o_proj"], rank_pattern={"layers.1.*o_proj": 4})
    ranks = {
        name: tensor.shape[0]
        for name, tensor in get_peft_model_state_dict(wrapped).items()
        if "lora_A" in name
    }
    assert sorted(ranks.values()) == [2, 4]
    assert ranks["base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight"] == 4


def test_what_a_recipe_leaves_out_is_left_to_peft(model: Any) -> None:
    plain = configuration(fields_of(), model)
    assert plain.exclude_modules is None
    assert plain.rank_pattern == {}
    assert (plain.r, plain.use_dora, plain.use_rslora) == (2, False, False)


def test_an_adapter_to_begin_with_has_the_same_shape(model: Any, tmp_path: Path) -> None:
    wrapped, _ = added(model, modules=["o_proj"])
    tensors = {n: torch.ones_like(t) for n, t in get_peft_model_state_dict(wrapped).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    work, _ = job(fields_of())
    begin_with(work, wrapped, tmp_path)
    assert all(t.eq(1).all() for t in get_peft_model_state_dict(wrapped).values())

    name = sorted(tensors)[0]
    save_file(
        {n: t for n, t in tensors.items() if n != name}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(InputError) as caught:
        begin_with(work, wrapped, tmp_path)
    assert caught.value.fact == f"the adapter to begin with differs in {name} (1 such tensors)"
    assert str(caught.value.where) == "olivebuild.yaml:7:5"
