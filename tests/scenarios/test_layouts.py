"""How rows lie, what memory there is and which kernels compute change no gradient, on tiny models
of several architectures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scenarios.training import adapted, gradient, token_rows
from tests.support.tiny_models import ARCHITECTURES, make

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "phi3 with a window"])
def test_a_packed_row_has_the_logits_it_has_alone(
    architecture: str, tiny_model: Path, tmp_path: Path
) -> None:
    import torch

    from olivebuild.ml.nn.forward import Forward, Setup
    from olivebuild.ml.nn.layout_trial import takes_packed
    from olivebuild.ml.nn.packing import pack

    make(
        architecture.split()[0],
        tmp_path / "model",
        tiny_model,
        dtype="float32",
        **({"sliding_window": 7} if "window" in architecture else {}),
    )
    model, batch = adapted(tmp_path / "model").eval(), token_rows()
    said: list[str] = []
    setup = takes_packed(model, batch, torch.device("cpu"), said.append)
    assert setup.packed, said
    wanted = {}
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            wanted[attention] = [
                model(input_ids=torch.tensor(row.ids)[None].long()).logits[0] for row in batch
            ]
    forward = Forward(
        model,
        torch.device("cpu"),
        Setup(packed=True, share_prefixes=True, tokens_per_micro_batch=10_000),
        print,
    )
    for share in (False, True):
        order = (
            sorted(range(len(batch)), key=lambda i: batch[i].ids.tolist())
            if share
            else range(len(batch))
        )
        with torch.no_grad():
            found = forward.logits(
                pack(batch, torch.device("cpu"), share_prefixes=share, padded_groups=True)
            )
        for logits in wanted.values():
            alone = torch.cat([logits[i][:-1][batch[i].counted[1:]] for i in order])
            assert (found - alone).abs().max() < 1e-5


def one_length(count: int = 3, length: int = 12) -> list[Any]:
    from olivebuild.ml.data.examples import Tokens

    random = np.random.default_rng(4)
    return [
        Tokens(random.integers(3, 380, length).astype(np.int32), np.ones(length, bool))
        for _ in range(count)
    ]


def test_what_is_computed_otherwise_for_speed_changes_no_gradient(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.ml.nn import loss_head
    from olivebuild.ml.nn.compile import suit_compiler
    from olivebuild.ml.nn.forward import Setup
    from olivebuild.ml.nn.lora import join_products

    model, batch = adapted(llama), one_length()
    padded = gradient(
        model, Setup(packed=False, share_prefixes=False, tokens_per_micro_batch=10_000), batch
    )
    # As layers run on a processor: LoRA's products joined.
    join_products(model)
    assert sum("forward" in vars(module) for module in model.modules()) == 14
    joined = gradient(
        model, Setup(packed=True, share_prefixes=True, tokens_per_micro_batch=10_000), batch
    )
    assert abs(joined[0] - padded[0]) < 1e-5
    assert (joined[1] - padded[1]).abs().max() < 1e-5
    # Rows of one length without a mask, the loss in one pass, LoRA scaled while narrow.
    monkeypatch.setattr(loss_head, "_compiled_slope", lambda: loss_head._slope_in_one)
    suit_compiler(model)
    assert sum("forward" in vars(module) for module in model.modules()) == 14
    setup = Setup(
        packed=True,
        share_prefixes=False,
        tokens_per_micro_batch=10_000,
        padded_groups=False,
        uniform_length=12,
        compiled=True,
    )
    found = gradient(model, setup, batch)
    assert abs(found[0] - padded[0]) < 1e-5
    assert (found[1] - padded[1]).abs().max() < 1e-5


@pytest.mark.parametrize("there", [True, False])
def test_products_are_those_of_torch_with_and_without_onednn(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from olivebuild.ml.nn import linear

    assert linear.ONEDNN is not None or not torch.backends.mkldnn.is_available()
    if not there:
        monkeypatch.setattr(linear, "ONEDNN", None)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(7, 24), torch.randn(40, 24), torch.randn(40)
    assert torch.allclose(linear.linear(x, weight, bias), x @ weight.T + bias, atol=1e-5)
    # As a gradient asks for them: factors that lie across.
    given = torch.randn(7, 40)
    assert torch.allclose(linear.linear(given, weight.T), given @ weight, atol=1e-5)
    assert torch.allclose(linear.linear(given.T, x.T), given.T @ x, atol=1e-5)
    assert linear.linear(x.double(), weight.double()).dtype == torch.float64


def test_a_weight_with_lora_beside_it_gives_what_both_give_apart() -> None:
    import torch

    from olivebuild.ml.nn.compile import _Beside

    torch.manual_seed(0)
    x, a, weight, b = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=i != 2)
        for i, shape in enumerate(((2, 5, 6), (8, 6), (11, 6), (11, 8)))
    )
    slope = torch.randn(2, 5, 11, dtype=torch.float64)
    apart = x @ weight.T + x @ a.T @ b.T
    beside = _Beside.apply(x, x @ a.T, b, torch.cat([weight, b.detach()], 1))
    assert torch.allclose(apart, beside)
    for one, other in zip(
        torch.autograd.grad(apart, (x, a, b), slope),
        torch.autograd.grad(beside, (x, a, b), slope),
        strict=True,
    ):
        assert torch.allclose(one, other)


def test_layers_put_another_way_for_a_compiler_learn_the_same_in_half_precision(
    tiny_model: Path, tmp_path: Path
) -> None:
    import torch

    from olivebuild.ml.models import load
    from olivebuild.ml.nn.compile import suit_compiler
    from olivebuild.ml.nn.forward import Setup

    make("phi3", tmp_path / "model", tiny_model, dtype="bfloat16")
    gradients: list[Any] = []
    for dtype in (torch.float32, torch.bfloat16, torch.bfloat16):
        model = adapted(tmp_path / "model", load.load_model(tmp_path / "model", dtype), r=8).to(
            dtype
        )
        if len(gradients) == 2:
            suit_compiler(model)
            ways = [
                vars(module)["forward"].__name__
                for module in model.modules()
                if "forward" in vars(module)
            ]
            # qkv_proj; o_proj and down_proj, which give less than they take; gate_up_proj has LoRA
            # here, so its halves stay together.
            assert (
                ways.count("_beside"),
                ways.count("_narrow_first"),
                ways.count("_gate_apart"),
            ) == (4, 4, 0)
        gradients.append(
            gradient(
                model,
                Setup(packed=True, share_prefixes=False, tokens_per_micro_batch=10_000),
                one_length(),
            )[1].float()
        )
    exact, plain, found = gradients
    assert (found - exact).norm() < 1.2 * (plain - exact).norm()


def test_a_gate_apart_from_what_it_gates_gives_the_same(tiny_model: Path, tmp_path: Path) -> None:
    import torch

    from olivebuild.ml.models import load
    from olivebuild.ml.nn.compile import suit_compiler
    from olivebuild.ml.nn.forward import Setup

    make("phi3", tmp_path / "model", tiny_model, dtype="float32")
    model = adapted(
        tmp_path / "model",
        load.load_model(tmp_path / "model", torch.float32),
        modules=["qkv_proj", "down_proj"],
    )
    setup = Setup(packed=True, share_prefixes=False, tokens_per_micro_batch=10_000)
    plain = gradient(model, setup, one_length())[1]
    suit_compiler(model)
    assert (
        sum(
            getattr(vars(module).get("forward"), "__name__", "") == "_gate_apart"
            for module in model.modules()
        )
        == 2
    )
    assert (gradient(model, setup, one_length())[1] - plain).abs().max() < 1e-6


def test_a_window_that_hides_only_what_predicts_nothing_is_none(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.ml.nn import attention as _attention
    from olivebuild.ml.nn.forward import Setup

    monkeypatch.setattr(_attention, "VARLEN", None)
    for window, hides in ((11, False), (10, True)):
        make("phi3", tmp_path / str(window), tiny_model, dtype="float32", sliding_window=window)
        model, batch = adapted(tmp_path / str(window)), one_length()
        padded = gradient(
            model, Setup(packed=False, share_prefixes=False, tokens_per_micro_batch=10_000), batch
        )
        setup = Setup(
            packed=True,
            share_prefixes=False,
            tokens_per_micro_batch=10_000,
            padded_groups=False,
            uniform_length=12,
        )
        if hides:
            # Left to the kernel for rows of any length.
            with pytest.raises(TypeError):
                gradient(model, setup, batch)
        else:
            assert (gradient(model, setup, batch)[1] - padded[1]).abs().max() < 1e-5


def test_layout_pieces_and_memory_change_no_gradient(llama: Path, tmp_path: Path) -> None:
    from olivebuild.ml.nn import forward as _forward
    from olivebuild.ml.nn import loss_head
    from olivebuild.ml.nn.forward import Setup

    model, batch = adapted(llama), token_rows(1)
    padded = gradient(
        model, Setup(packed=False, share_prefixes=False, tokens_per_micro_batch=10_000), batch
    )
    for setup in (
        Setup(packed=True, share_prefixes=False, tokens_per_micro_batch=10_000),
        Setup(packed=True, share_prefixes=True, tokens_per_micro_batch=10_000),
        Setup(packed=True, share_prefixes=True, tokens_per_micro_batch=40),
        Setup(packed=False, share_prefixes=False, tokens_per_micro_batch=40),
    ):
        found = gradient(model, setup, batch)
        assert abs(found[0] - padded[0]) < 1e-5
        assert (found[1] - padded[1]).abs().max() < 1e-5
    with pytest.MonkeyPatch.context() as patch:
        # Logits in pieces, and layers computed twice.
        patch.setattr(loss_head, "LOGITS", 384 * 5)
        _forward.checkpoint_layers(model)
        found = gradient(
            model,
            Setup(
                packed=True, share_prefixes=True, tokens_per_micro_batch=10_000, linear_head=True
            ),
            batch,
        )
        assert (found[1] - padded[1]).abs().max() < 1e-5


def test_out_of_memory_goes_on_in_smaller_pieces(llama: Path) -> None:
    import torch

    from olivebuild.core.errors import StepError
    from olivebuild.ml.nn.forward import Forward, Setup

    model, batch = adapted(llama), token_rows(2)
    wanted = gradient(
        model, Setup(packed=True, share_prefixes=True, tokens_per_micro_batch=10_000), batch
    )
    room = [85]
    said: list[str] = []

    def small(module: Any, arguments: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].numel() > room[0]:
            raise torch.OutOfMemoryError

    model.get_base_model().base_model.register_forward_pre_hook(small, with_kwargs=True)
    forward = Forward(
        model,
        torch.device("cpu"),
        Setup(packed=True, share_prefixes=False, tokens_per_micro_batch=160),
        said.append,
    )
    model.zero_grad()
    loss = float(forward.backward(batch))
    assert forward.setup.tokens_per_micro_batch == 80
    assert len(said) == 1
    assert abs(loss - wanted[0]) < 1e-5
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    assert (found - wanted[1]).abs().max() < 1e-5
    room[0] = 1
    with pytest.raises(StepError, match="does not fit into memory"):
        forward.backward(batch)
    assert forward.setup.recompute


def test_attention_that_is_not_known_is_padded(llama: Path) -> None:
    import torch
    from transformers import AttentionInterface

    from olivebuild.ml.nn import attention as _attention
    from olivebuild.ml.nn.layout_trial import takes_packed

    model = adapted(llama)
    said: list[str] = []

    def leaks(
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        mask: Any,
        *,
        rows: Any = None,
        **options: Any,
    ) -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True, scale=options["scaling"]
        )
        return out.transpose(1, 2), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AttentionInterface._global_mapping, _attention.NAME, leaks)
        setup = takes_packed(model, token_rows(3), torch.device("cpu"), said.append)
    assert not setup.packed
    assert "logits would differ by" in said[0]
