"""Whether a merge does what base and adapter do together: their logits on a few prompts, computed
in float32 on the weights as they are stored.

The bound is not guessed: rounding the adapted weights once more, at random, shows how far logits
move when nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

PROMPTS, LENGTH = 2, 40
ROUNDING = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12, torch.float32: 2.0**-22}
"""Half a unit in the last place, relative; for float32 the sums of the computation itself are
coarser than that.
"""
ALLOWED = 5.0
"""Times what rounding does."""
LEAST = {torch.bfloat16: 1e-3, torch.float16: 1e-4, torch.float32: 1e-5}
TOLD = 0.02
"""A difference above this is told, be it explained or not."""
HIDES = 0.1
"""Where rounding explains more than this, a wrong merge might hide behind it: then each weight is
looked at.
"""
DRAWS = 2
ADAPTED = (".base_layer.", ".modules_to_save.")
"""Parts of the names that peft gives weights which it adds to, or holds trained copies of."""


class Reference(NamedTuple):
    """What base and adapter compute, and how far apart two logits may lie, in units of the logits'
    standard deviation.
    """

    prompts: torch.Tensor
    logits: torch.Tensor
    bound: float
    dtype: torch.dtype
    names: frozenset[str]
    """Of the weights that the adapter changes."""


def prompts_for(config: Any, tokens: list[int]) -> torch.Tensor:
    """Tokens drawn from the vocabulary, once for all; `tokens` are among them."""
    size = int(config.get_text_config().vocab_size)
    drawn = torch.randint(0, size, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0))
    few = [t for t in tokens if 0 <= t < size][: drawn.numel() // 2]
    drawn.view(-1)[: len(few)] = torch.tensor(few, dtype=torch.long)
    return drawn


def reference(wrapped: Any, dtype: torch.dtype, prompts: torch.Tensor) -> Reference:
    """Of a peft model that computes with its adapter beside the weights. Raises ValueError."""
    names = {
        _plain(name)
        for name, _ in wrapped.named_parameters(remove_duplicate=False)
        if any(part in name for part in ADAPTED)
    }
    logits = compute(wrapped, prompts)
    found = Reference(prompts, logits, LEAST[dtype], dtype, frozenset(names))
    return found._replace(bound=bound_of(wrapped, found, logits))


def bound_of(model: Any, reference: Reference, logits: torch.Tensor) -> float:
    """How far from the reference a model that computes `logits` may be: as far as rounding its
    adapted weights takes it, some times over.
    """
    rounding = ROUNDING[reference.dtype]
    noise = [
        apart(
            model,
            logits,
            compute(model, reference.prompts, reference.names, rounding=rounding, seed=seed),
        )
        for seed in range(DRAWS)
    ]
    return max(reference.bound, ALLOWED * max(noise))


def odd_weight(exact: Any, before: Any, found: Any, dtype: torch.dtype) -> str:
    """The first weight of a merge that rounding does not explain, by its name, or nothing.

    `exact` is the same merge in float32, `before` its base; peft may round what it adds, and what
    comes out.
    """
    base, stored, step = before.state_dict(), found.state_dict(), 2.02 * ROUNDING[dtype]
    for name, right in exact.state_dict().items():
        if right.is_floating_point():
            change = (right - base[name].float()).abs() if name in base else 0.0
            if name not in stored or not bool(
                ((stored[name].float() - right).abs() <= step * (right.abs() + change)).all()
            ):
                return str(name)
    return ""


def _plain(name: str) -> str:
    """A parameter's name as the merged model has it."""
    name = name.removeprefix("base_model.model.")
    for part in (*ADAPTED, ".token_adapter.", ".original_module."):
        name = name.replace(part, ".")
    return name.replace(".default.", ".")


def compute(
    model: Any,
    prompts: torch.Tensor,
    names: frozenset[str] = frozenset(),
    *,
    rounding: float = 0.0,
    seed: int = 0,
) -> torch.Tensor:
    """Logits in float32. Raises ValueError when they are not finite."""
    with torch.inference_mode(), _widened(model, names, rounding, seed):
        logits = model(input_ids=prompts, use_cache=False).logits.float()
    if not torch.isfinite(logits).all():
        raise ValueError("base and adapter together give logits that are not finite")
    found: torch.Tensor = logits
    return found


def apart(model: Any, expected: torch.Tensor, found: torch.Tensor) -> float:
    """The greatest difference in units of the expected logits' standard deviation; infinite for
    another vocabulary.

    Of a mixture of experts the median over the tokens: whom a router asks may hang on the last bit.
    """
    if expected.shape != found.shape:
        return float("inf")
    by_token = (expected - found).abs().amax(-1).flatten() / (expected.std() + 1e-30)
    return float(by_token.median() if _is_mixture(model) else by_token.max())


def _is_mixture(model: Any) -> bool:
    config = model.config.get_text_config()
    return any(
        int(getattr(config, name, 0) or 0) > 1
        for name in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    )


@contextmanager
def _widened(model: nn.Module, names: frozenset[str], rounding: float, seed: int) -> Iterator[None]:
    """Weights are float32 where they are computed with, a block of layers at a time: a whole model
    of these might not fit in memory.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {
        id(m)
        for found in lists
        for child in found
        for m in child.modules()
        if isinstance(m, nn.ModuleList)
    }
    blocks = [child for found in lists if id(found) not in inner for child in found]
    within = {id(t) for block in blocks for t in _tensors(block)}
    kept: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    adapted = {
        id(p) for name, p in model.named_parameters(remove_duplicate=False) if _plain(name) in names
    }

    def widen(tensors: list[torch.Tensor], number: int) -> None:
        generator = torch.Generator().manual_seed(seed * 100_003 + number)
        kept[number] = [(t, t.data) for t in tensors]
        for t in tensors:
            wide = t.data.float()
            if rounding and id(t) in adapted:
                wide = wide * (1 + rounding * (2 * torch.rand(wide.shape, generator=generator) - 1))
            t.data = wide

    def restore(number: int) -> None:
        for t, before in kept.pop(number, []):
            t.data = before

    handles: list[Any] = []
    for number, block in enumerate(blocks, 1):
        handles.append(
            block.register_forward_pre_hook(lambda m, _, n=number: widen(_tensors(m), n))
        )
        handles.append(
            block.register_forward_hook(lambda *_, n=number: restore(n), always_call=True)
        )
    widen([t for t in _tensors(model) if id(t) not in within], 0)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for number in list(kept):
            restore(number)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    found = {id(t): t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()}
    return list(found.values())


class Ties:
    """Weights that several modules of a wrapped model share and that an adapter touches: each
    module gets its own, and keeps it if they differ.
    """

    def __init__(self, model: Any) -> None:
        """Raises ValueError for a shared weight that no configuration can take apart."""
        self.model = model
        self.config = model.config
        self.was = [(c, c.tie_word_embeddings) for c in self._configs()]
        holders: dict[int, list[tuple[str, nn.Module, str]]] = {}
        for path, module in model.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    holders.setdefault(id(parameter), []).append((path, module, name))
        self.shared = [
            found
            for found in holders.values()
            if len(found) > 1 and any(_is_adapted(path) for path, _, _ in found)
        ]
        ends = [
            end
            for end in (model.get_input_embeddings(), model.get_output_embeddings())
            if end is not None
        ]
        of_words = {id(m) for end in ends for m in end.modules()}
        for found in self.shared:
            if any(id(module) not in of_words for _, module, _ in found):
                names = " and ".join(path.replace(".base_layer", "") for path, _, _ in found[:2])
                raise ValueError(
                    f"{names} share one weight, of which the adapter changes one alone"
                )
            for _, module, name in found[1:]:
                own = getattr(module, name)
                module._parameters[name] = nn.Parameter(own.detach().clone(), requires_grad=False)

    def _configs(self) -> list[Any]:
        configs = {id(c): c for c in (self.config, self.config.get_text_config())}
        return [c for c in configs.values() if hasattr(c, "tie_word_embeddings")]

    def settle(self, merged: Any) -> bool:
        """Tie again what came out equal.

        Whether ends came apart; the configuration then says so.
        """
        apart = False
        for found in self.shared:
            (_, first, name), *rest = found
            if all(
                torch.equal(getattr(first, name), getattr(module, other))
                for _, module, other in rest
            ):
                for _, module, other in rest:
                    module._parameters[other] = first._parameters[name]
            else:
                apart = True
        for config, was in self.was if self.shared else ():
            config.tie_word_embeddings = was and not apart
        if apart:
            merged.all_tied_weights_keys = merged.get_expanded_tied_weights_keys(all_submodels=True)
        return apart


def _is_adapted(path: str) -> bool:
    return path.endswith(".base_layer") or ".base_layer." in path


def in_memory(model: Any) -> dict[str, str]:
    """The digest of each weight of a model."""
    from olivebuild.core import hashing

    state = model.state_dict()
    return {
        name: hashing.of_bytes(
            t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
        for name, t in state.items()
        if t.numel()
    }
