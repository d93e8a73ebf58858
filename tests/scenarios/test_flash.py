"""FlashAttention 4 runs on few cards, so its part is played by plain products here, by its
contract: what is tested is that rows get to it rightly, through operators as a compiler wants them,
and that a fault of its is found."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.training import adapted, gradient, token_rows
from tests.support.tiny_models import make

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


class Kernels:
    """For `flash_attn.cute.interface`: causal from the last key on, rows end to end or of one
    length, heads of keys shared.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.error: Any = 0.0

    def _flash_attn_fwd(
        self, q: Any, k: Any, v: Any, *, return_lse: bool, **options: Any
    ) -> tuple[Any, ...]:
        import torch

        assert return_lse
        self.calls.append("packed" if options["cu_seqlens_q"] is not None else "alike")
        out, sums = (
            torch.empty_like(q),
            q.new_empty(
                (q.shape[-2], len(q)) if q.dim() == 3 else (len(q), q.shape[2], q.shape[1])
            ),
        )
        for own, seen, at in self._rows(q, options):
            scores, values = (
                self._scores(q[own], k[seen], options),
                v[seen].repeat_interleave(q.shape[-2] // k.shape[-2], 1),
            )
            out[own], sums[at] = (
                torch.einsum("hqk,khd->qhd", scores.softmax(-1), values),
                scores.logsumexp(-1),
            )
        return out, sums, None, None, None

    def _flash_attn_bwd(
        self, q: Any, k: Any, v: Any, out: Any, grad: Any, lse: Any, **options: Any
    ) -> tuple[Any, ...]:
        import torch

        by_q, by_k, by_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for own, seen, at in self._rows(q, options):
            shares = (self._scores(q[own], k[seen], options) - lse[at][..., None]).exp()
            repeat, dim = q.shape[-2] // k.shape[-2], q.shape[-1]
            keys, values = (x[seen].repeat_interleave(repeat, 1) for x in (k, v))
            by_shares = (
                torch.einsum("qhd,khd->hqk", grad[own], values)
                - (grad[own] * out[own]).sum(-1).T[..., None]
            )
            by_scores = shares * by_shares * options["softmax_scale"]
            by_q[own] = torch.einsum("hqk,khd->qhd", by_scores, keys) + self.error
            for found, slope in (
                (by_k, torch.einsum("hqk,qhd->khd", by_scores, q[own])),
                (by_v, torch.einsum("hqk,qhd->khd", shares, grad[own])),
            ):
                found[seen] = slope.unflatten(1, (-1, repeat)).sum(2).view(-1, k.shape[-2], dim)
        return by_q, by_k, by_v

    def _rows(self, q: Any, options: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
        """Where each row's queries, its keys and its sums are."""
        if options["cu_seqlens_q"] is None:
            assert options["max_seqlen_q"] is None
            return [(i, i, i) for i in range(len(q))]
        own, seen = (options[name].tolist() for name in ("cu_seqlens_q", "cu_seqlens_k"))
        assert max(b - a for a, b in pairwise(own)) <= options["max_seqlen_q"]
        assert max(b - a for a, b in pairwise(seen)) <= options["max_seqlen_k"]
        places = [
            (slice(*a), slice(*b)) for a, b in zip(pairwise(own), pairwise(seen), strict=True)
        ]
        return [(a, b, (slice(None), a)) for a, b in places]

    def _scores(self, q: Any, k: Any, options: dict[str, Any]) -> Any:
        import torch

        assert options["causal"]
        scores = (
            torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(q.shape[1] // k.shape[1], 1))
            * options["softmax_scale"]
        )
        ago, left = (
            torch.arange(len(k) - len(q), len(k))[:, None] - torch.arange(len(k)),
            options["window_size_left"],
        )
        return scores.masked_fill(
            (ago < 0) | (ago > (len(k) if left is None else left)), -torch.inf
        )


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    import torch

    from olivebuild.ml.nn import flash_attention

    made = Kernels()
    monkeypatch.setattr(flash_attention, "_kernels", lambda: made)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return made


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("usual", [0, 12])
def test_flash_attention_changes_no_gradient(
    kernels: Kernels, window: int | None, usual: int, tiny_model: Path, tmp_path: Path
) -> None:
    from olivebuild.ml.nn.forward import Setup
    from tests.scenarios.test_layouts import one_length

    # Phi-3 has its heads apart or shared, and a window or none.
    make(
        "phi3",
        tmp_path / "model",
        tiny_model,
        dtype="float32",
        num_key_value_heads=2,
        sliding_window=window,
    )
    model, batch = adapted(tmp_path / "model"), one_length() if usual else token_rows(5)
    wanted = gradient(
        model, Setup(packed=False, share_prefixes=False, tokens_per_micro_batch=10_000), batch
    )
    for share in (False, True):
        setup = Setup(
            packed=True,
            share_prefixes=share and not usual,
            tokens_per_micro_batch=10_000,
            padded_groups=False,
            flash=True,
            uniform_length=usual,
        )
        found = gradient(model, setup, batch)
        assert abs(found[0] - wanted[0]) < 1e-5
        assert (found[1] - wanted[1]).abs().max() < 1e-5
    assert set(kernels.calls) == {"alike" if usual else "packed"}


@pytest.mark.parametrize("packed", [False, True])
def test_the_operators_are_what_a_compiler_takes_them_for(kernels: Kernels, packed: bool) -> None:
    import torch

    from olivebuild.ml.nn import flash_attention  # noqa: F401

    torch.manual_seed(0)
    shape = (9,) if packed else (2, 9)
    q, k, v = (torch.randn(*shape, heads, 8, requires_grad=True) for heads in (4, 2, 2))
    starts = torch.tensor([0, 4, 9], dtype=torch.int32) if packed else None
    torch.library.opcheck(torch.ops.olivebuild.flash, (q, k, v, starts, starts, 5, 5, 0.3, 2))


@pytest.mark.parametrize("packed", [False, True])
def test_a_fault_of_the_kernels_is_found(kernels: Kernels, packed: bool) -> None:
    import torch

    from olivebuild.ml.nn.flash_attention import fault

    def asked(back: int | None = None) -> str:
        return fault(4, 2, 16, torch.float32, torch.device("cpu"), back=back, packed=packed)

    assert asked() == asked(50) == ""
    kernels.error = 0.3
    assert "results would differ by" in asked()
    kernels.error = "a string"
    assert "TypeError" in asked()
