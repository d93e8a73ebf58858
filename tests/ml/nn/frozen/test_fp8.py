"""Products in FP8: beside the same numbers in float64, and rounded as the format has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from olivebuild.ml.nn.frozen.fp8 import (
    LARGEST,
    Fp8Linear,
    plain_inputs,
    rounded,
    rounded_again,
    scaled_product,
)


def exact(values: torch.Tensor) -> torch.Tensor:
    """What values stand for once they are rounded, in float64."""
    numbers, scale = rounded(values)
    return numbers.double() * scale.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_is_rounded_to_the_nearest_number_by_a_scale_of_its_own(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    values = (torch.randn(40, 64) * torch.logspace(-6, 6, 40)[:, None]).to(dtype)
    numbers, scale = rounded(values)
    assert numbers.dtype == torch.float8_e4m3fn
    assert scale.shape == (40, 1)
    # The largest of each row is the format's largest.
    assert torch.all(numbers.float().abs().amax(-1) == LARGEST)
    # Three bits behind the point: half of an eighth, and half of the least step below 2**-6.
    allowed = (values.double().abs() / 16).clamp(min=float(2**-10) * scale.double())
    assert torch.all((exact(values) - values.double()).abs() <= allowed * 1.0001)


def test_rows_of_zeros_stay_zeros() -> None:
    numbers, scale = rounded(torch.zeros(3, 16))
    assert torch.all(numbers.float() == 0)
    assert torch.all(torch.isfinite(scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_of_two_roundings_is_twice_as_near(dtype: torch.dtype) -> None:
    torch.manual_seed(7)
    values = (torch.randn(64, 256) * torch.logspace(-4, 4, 64)[:, None]).to(dtype)
    values[3] = 0
    first, scale = rounded(values)
    second = rounded_again(values, first, scale)
    assert second.dtype == torch.float8_e4m3fn
    exactly, once = values.double(), first.double() * scale
    mean = (once + second.double() * scale) / 2
    assert float((mean - exactly).norm() / (once - exactly).norm()) < 0.6
    # The second errs by one number of the format more than the first, if at all.
    codes = (each.view(torch.uint8).int() & 127 for each in (first, second))
    assert int((next(codes) - next(codes)).abs().max()) == 1


@pytest.mark.parametrize("both", [False, True])
def test_roundings_take_turns(both: bool) -> None:
    torch.manual_seed(8)
    linear = torch.nn.Linear(64, 48, bias=False).requires_grad_(False)
    layer, weight = Fp8Linear(linear, both_layouts=both), linear.weight.detach()
    first, scale = rounded(weight)
    second = rounded_again(weight, first, scale)
    known = layer.weight
    for number, numbers in ((1, second), (1, second), (0, first), (1, second)):
        layer.take_turn(number)
        # What compiled layers know stays the same tensor.
        assert layer.weight is known
        assert torch.equal(layer.weight.view(torch.uint8), numbers.view(torch.uint8))
        x = torch.linspace(-1, 1, 5 * 64).view(5, 64).requires_grad_()
        out = layer(x)
        out.sum().backward()
        plain = Fp8Linear(linear)
        plain.weight.data = numbers
        again = x.detach().clone().requires_grad_()
        assert torch.equal(plain(again), out)
        plain(again).sum().backward()
        assert torch.equal(x.grad, again.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 32, 48), (1, 64, 16), (200, 256, 128)])
def test_a_product_is_that_of_the_rounded_numbers(
    dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(1)
    n, k, m = shape
    x, w = torch.randn(n, k), torch.randn(m, k) * torch.logspace(-2, 2, m)[:, None]
    (left, left_scale), (right, right_scale) = rounded(x), rounded(w)
    found = scaled_product(left, left_scale, right.t(), right_scale.t(), dtype)
    wanted = exact(x) @ exact(w).T
    assert found.dtype == dtype
    # Of the sum in float32, and of the result.
    summed = exact(x).abs() @ exact(w).abs().T
    allowed = {torch.float32: 0.0, torch.bfloat16: 2**-8}[dtype] * wanted.abs() + 1e-5 * summed
    assert torch.all((found.double() - wanted).abs() <= allowed)


def test_both_layouts_of_a_weight_give_the_same_gradient() -> None:
    torch.manual_seed(4)
    linear = torch.nn.Linear(64, 48).requires_grad_(False)
    found = []
    for both in (False, True):
        layer = Fp8Linear(linear, both_layouts=both)
        assert (layer.by_columns is not None) == both
        # They are no parameters, and in no file.
        assert len(list(layer.parameters())) == 3
        assert "by_columns" not in layer.state_dict()
        x = torch.linspace(-1, 1, 5 * 64).view(5, 64).requires_grad_()
        layer(x).square().sum().backward()
        assert x.grad is not None
        found.append(x.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize("bias", [False, True])
def test_plain_inputs_are_multiplied_with_what_the_weight_stands_for(bias: bool) -> None:
    torch.manual_seed(5)
    linear = torch.nn.Linear(64, 48, bias=bias).requires_grad_(False)
    layer, x = Fp8Linear(linear), torch.randn(7, 64)
    model = torch.nn.Sequential(layer)
    with plain_inputs(model):
        out = model(x)
    wanted = x.double() @ exact(linear.weight).T + (linear.bias if bias else 0)
    assert torch.allclose(out.double(), wanted, atol=1e-5)
    assert not torch.equal(model(x), out)
    with pytest.raises(ZeroDivisionError), plain_inputs(model):
        raise ZeroDivisionError
    assert layer.rounds_inputs


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_is_scaled_while_narrow_on_a_layer_in_fp8() -> None:
    """As on plain ones where layers are compiled, and by nothing that reads the weight itself."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from olivebuild.ml.nn.compile import suit_compiler
    from olivebuild.ml.nn.frozen.fp8 import quantise_base
    from olivebuild.ml.nn.lora import join_products

    torch.manual_seed(6)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64}
    base: Any = LlamaForCausalLM(LlamaConfig(**sizes, **heads))  # type: ignore[arg-type]
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    model: Any = get_peft_model(base, config).eval()
    quantise_base(model)
    layer = next(m for n, m in model.named_modules() if n.endswith("q_proj"))
    x = torch.randn(3, 32)
    before = layer(x)
    join_products(model)
    assert "forward" not in vars(layer)
    suit_compiler(model)
    assert "forward" in vars(layer)
    assert torch.allclose(layer(x), before, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_and_its_gradient_take_the_same_rounded_weight(bias: bool) -> None:
    torch.manual_seed(2)
    linear = torch.nn.Linear(64, 48, bias=bias).requires_grad_(False)
    layer = Fp8Linear(linear)
    x = torch.randn(2, 7, 64, requires_grad=True)
    out = layer(x)
    wanted = exact(x.detach().view(-1, 64)) @ exact(linear.weight).T
    assert torch.allclose(
        out.detach().double().view(-1, 48), wanted + (linear.bias if bias else 0), atol=1e-5
    )
    gradient = torch.randn(2, 7, 48)
    out.backward(gradient)
    numbers, scale = rounded(linear.weight)
    by_row = exact(gradient.view(-1, 48) * scale.t())
    assert x.grad is not None
    assert torch.allclose(x.grad.double().view(-1, 64), by_row @ numbers.double(), atol=1e-4)
    plain = (gradient.view(-1, 48) @ linear.weight).view_as(x.grad)
    assert float((x.grad - plain).norm() / plain.norm()) < 0.06
    assert [p.requires_grad for p in layer.parameters()] == [False] * (3 if bias else 2)


# Of torch 2.13 itself, as it traces.
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>:DeprecationWarning")
def test_a_compiler_takes_its_products_whole() -> None:
    """Traced with their gradient, as compiled layers are on a GPU."""
    torch.manual_seed(3)
    layer = Fp8Linear(torch.nn.Linear(64, 48, bias=False).requires_grad_(False))
    traced: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = []
    for product in (layer, traced):
        x = torch.linspace(-1, 1, 3 * 5 * 64).view(3, 5, 64).requires_grad_()
        out = product(x)
        out.square().sum().backward()
        found.append((out, x.grad))
    assert all(map(torch.equal, *found))
