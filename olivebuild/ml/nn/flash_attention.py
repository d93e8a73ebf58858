"""FlashAttention 4 as operators that a compiler of layers leaves whole.

The package flash-attn-4, where it is installed.

It can't be traced itself, and torch's way to it (torch.nn.attention.activate_flash_attention_impl)
fails on what versions since 4.0.0b20 give back. It is beta software, so what it computes is
compared with torch's own products before a training trusts it (`fault`).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

TOKENS, SEEN = (100, 220), (100, 350)
"""Of two rows that the kernels are tried on, more than their blocks hold: how many tokens are a
row's own, and how many it sees in all.
"""
WRONG = 0.02
"""How far apart results of half precision may be, as a share of the largest number."""
SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? starts, Tensor? key_starts, SymInt longest, "
    "SymInt longest_keys, float scale, int? back)"
)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    back: int | None = None,
    rows: tuple[Any, Any, int, int] = (None, None, 0, 0),
) -> torch.Tensor:
    """Return causal attention of [rows, tokens, heads, dim], or of rows end to end.

    With `rows` tensors are [tokens, heads, dim]: where each row's queries and its keys begin
    (int32, one more than rows), and the longest of each. Fewer heads of keys than of queries are
    shared. `back`: how many tokens a token sees before itself.
    """
    out: torch.Tensor = torch.ops.olivebuild.flash(q, k, v, *rows, scale, back)[0]
    return out


def installed() -> bool:
    try:
        return importlib.util.find_spec("flash_attn.cute") is not None
    except ModuleNotFoundError:
        return False


def fault(
    heads: int,
    key_heads: int,
    dim: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    back: int | None,
    packed: bool,
) -> str:
    """Why these kernels can't be used for such attention on such a device, or nothing.

    Compiles them, which takes seconds.
    """
    if not 9 <= torch.cuda.get_device_capability(device)[0] <= 10:
        return "it is for Hopper and Blackwell"
    random = torch.Generator(device).manual_seed(0)

    def some(tokens: int, heads: int) -> torch.Tensor:
        return torch.randn(
            tokens, heads, dim, generator=random, device=device, dtype=dtype
        ).requires_grad_()

    lengths, seen = (TOKENS, SEEN) if packed else (TOKENS[1:] * 2, TOKENS[1:] * 2)
    leaves, slope = (
        (some(sum(lengths), heads), some(sum(seen), key_heads), some(sum(seen), key_heads)),
        some(sum(lengths), heads).detach(),
    )
    back, scale = None if back is None else min(back, TOKENS[0]), dim**-0.5
    try:
        if packed:
            starts, key_starts = (
                torch.tensor([0, n[0], sum(n)], device=device, dtype=torch.int32)
                for n in (lengths, seen)
            )
            out = attention(
                *leaves, scale=scale, back=back, rows=(starts, key_starts, max(lengths), max(seen))
            )
        else:
            q, k, v = (x.view(2, -1, *x.shape[1:]) for x in leaves)
            out = attention(q, k, v, scale=scale, back=back).flatten(0, 1)
        computed = [out.detach(), *torch.autograd.grad(out, leaves, slope)]
    except Exception as e:  # noqa: BLE001
        # A kernel that fails in any way is not used, and the reason is kept.
        return f"{type(e).__name__}: {e}".splitlines()[0][:200]
    q, k, v = exact = [x.detach().float().requires_grad_() for x in leaves]
    rows = zip(torch.split(q, lengths), torch.split(k, seen), torch.split(v, seen), strict=True)
    out = torch.cat([_plain(*row, scale=scale, back=back) for row in rows])
    wanted = [out.detach(), *torch.autograd.grad(out, exact, slope.float())]
    wrong = max(
        float((a.float() - b).abs().max() / b.abs().max())
        for a, b in zip(computed, wanted, strict=True)
    )
    return "" if wrong < WRONG else f"results would differ by {wrong:.2g}"


def _plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, back: int | None
) -> torch.Tensor:
    """Return the attention of one row by torch's own products: [tokens, heads, dim]."""
    repeat, keys = q.shape[1] // k.shape[1], torch.arange(len(k), device=q.device)
    apart = keys[len(k) - len(q) :, None] - keys
    mask = (apart >= 0) & (apart <= (len(k) if back is None else back))
    q, k, v = (
        x.transpose(0, 1)[None]
        for x in (q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1))
    )
    with sdpa_kernel(SDPBackend.MATH):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale)[
            0
        ].transpose(0, 1)


# The operators


def _kernels() -> Any:
    from flash_attn.cute import interface

    return interface


def _options(
    starts: torch.Tensor | None,
    key_starts: torch.Tensor | None,
    longest: int,
    longest_keys: int,
    scale: float,
    back: int | None,
) -> dict[str, Any]:
    lengths = (longest, longest_keys) if starts is not None else (None, None)
    options = {
        "cu_seqlens_q": starts,
        "cu_seqlens_k": key_starts,
        "max_seqlen_q": lengths[0],
        "max_seqlen_k": lengths[1],
    }
    return options | {"softmax_scale": scale, "causal": True, "window_size_left": back}


@torch.library.custom_op(
    "olivebuild::flash", mutates_args=(), schema=f"{SCHEMA} -> (Tensor, Tensor)"
)
def _forward(q: Any, k: Any, v: Any, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse, *_ = _kernels()._flash_attn_fwd(q, k, v, return_lse=True, **_options(*rest))
    return out, lse


@_forward.register_fake
def _(q: Any, _: Any, v: Any, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    heads_last = q.shape[:-1] if rest[0] is not None else (q.shape[0], q.shape[2], q.shape[1])
    sums = heads_last[::-1] if rest[0] is not None else heads_last
    return q.new_empty((*q.shape[:-1], v.shape[-1])), q.new_empty(sums, dtype=torch.float32)


@torch.library.custom_op(
    "olivebuild::flash_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor out, Tensor lse, {SCHEMA[1:]} -> (Tensor, Tensor, Tensor)",
)
def _backward(
    grad: Any, out: Any, lse: Any, q: Any, k: Any, v: Any, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    by_q, by_k, by_v, *_ = _kernels()._flash_attn_bwd(q, k, v, out, grad, lse, **_options(*rest))
    return by_q, by_k, by_v


@_backward.register_fake
def _(*inputs: Any) -> tuple[torch.Tensor, ...]:
    return tuple(torch.empty_like(x) for x in inputs[3:6])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, starts, key_starts, *ctx.numbers = inputs
    ctx.save_for_backward(*output, q, k, v, starts, key_starts)
    ctx.mark_non_differentiable(output[1])


def _go_back(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[Any, ...]:
    return *torch.ops.olivebuild.flash_backward(grad, *ctx.saved_tensors, *ctx.numbers), *[None] * 6


_forward.register_autograd(_go_back, setup_context=_keep)
