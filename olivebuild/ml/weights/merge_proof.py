"""Proof that a merge does what base and adapter do together, by their logits on a few prompts.

Logits are computed in float32 on the weights as they are stored. The bound is measured: rounding
the adapted weights once more, at random, shows how far logits move when nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from olivebuild.core import hashing

PROMPTS, LENGTH = 2, 40
ROUNDING = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12, torch.float32: 2.0**-22}
"""Half a unit in the last place, relative; float32's is that of the computation's own sums."""
ALLOWED = 5.0
"""The bound of a difference, in units of the one that rounding makes."""
LEAST = {torch.bfloat16: 1e-3, torch.float16: 1e-4, torch.float32: 1e-5}
TOLD = 0.02
"""A difference above this is reported, be it explained or not."""
HIDES = 0.1
"""A bound above this might hide a wrong merge, so that each weight is checked."""
DRAWS = 2
ADAPTED = (".base_layer.", ".modules_to_save.")
"""Parts of the names that peft gives weights which it adds to, or holds trained copies of."""


class Reference(NamedTuple):
    """The logits of base and adapter, and the bound of a difference from them.

    Differences are in units of the logits' standard deviation.
    """

    prompts: torch.Tensor
    logits: torch.Tensor
    bound: float
    dtype: torch.dtype
    names: frozenset[str]
    """Of the weights that the adapter changes."""


def prompts_for(config: Any, tokens: list[int]) -> torch.Tensor:
    """Return prompts [PROMPTS, LENGTH] drawn from the vocabulary by a fixed seed.

    `tokens` are among them.
    """
    size = int(config.get_text_config().vocab_size)
    drawn = torch.randint(0, size, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0))
    few = [t for t in tokens if 0 <= t < size][: drawn.numel() // 2]
    drawn.view(-1)[: len(few)] = torch.tensor(few, dtype=torch.long)
    return drawn


def reference(wrapped: Any, dtype: torch.dtype, prompts: torch.Tensor) -> Reference:
    """Return what a peft model computes with its adapter beside the weights. Raises ValueError."""
    names = {
        _plain(name)
        for name, _ in wrapped.named_parameters(remove_duplicate=False)
        if any(part in name for part in ADAPTED)
    }
    logits = compute(wrapped, prompts)
    least = Reference(prompts, logits, LEAST[dtype], dtype, frozenset(names))
    return least._replace(bound=bound_of(wrapped, least, logits))


def bound_of(model: Any, reference: Reference, logits: torch.Tensor) -> float:
    """Return how far from the reference a model that computes `logits` may be.

    That is as far as rounding its adapted weights takes it, some times over.
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


def wrong_weight(exact: Any, before: Any, merged: Any, dtype: torch.dtype) -> str:
    """Return the name of a merge's first weight that rounding does not explain, or "".

    `exact` is the same merge in float32, `before` its base; peft may round what it adds, and what
    comes out.
    """
    base, stored, step = before.state_dict(), merged.state_dict(), 2.02 * ROUNDING[dtype]
    for name, right in exact.state_dict().items():
        if right.is_floating_point():
            change = (right - base[name].float()).abs() if name in base else 0.0
            if name not in stored or not bool(
                ((stored[name].float() - right).abs() <= step * (right.abs() + change)).all()
            ):
                return str(name)
    return ""


def _plain(name: str) -> str:
    """Return a parameter's name as the merged model has it."""
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
    """Return logits in float32. Raises ValueError when they are not finite."""
    with torch.inference_mode(), _widened(model, names, rounding, seed):
        logits: torch.Tensor = model(input_ids=prompts, use_cache=False).logits.float()
    if not torch.isfinite(logits).all():
        raise ValueError("base and adapter together give logits that are not finite")
    return logits


def apart(model: Any, expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Return the greatest difference, in units of the expected logits' standard deviation.

    It is infinite for another vocabulary. For a mixture of experts it is the median over the
    tokens: which expert a router takes may depend on the last bit.
    """
    if expected.shape != actual.shape:
        return float("inf")
    by_token = (expected - actual).abs().amax(-1).flatten() / (expected.std() + 1e-30)
    return float(by_token.median() if _is_mixture(model) else by_token.max())


def _is_mixture(model: Any) -> bool:
    config = model.config.get_text_config()
    return any(
        int(getattr(config, name, 0) or 0) > 1
        for name in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    )


@contextmanager
def _widened(model: nn.Module, names: frozenset[str], rounding: float, seed: int) -> Iterator[None]:
    """Let weights be float32 while they are computed with.

    One block of layers is widened at a time: a whole model in float32 might not fit in memory.
    """
    blocks = _blocks(model)
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


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the layers: the members of module lists that are in no other."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    members = [child for modules in lists for child in modules]
    inner: set[int] = set()
    for member in members:
        inner |= {id(m) for m in member.modules() if isinstance(m, nn.ModuleList)}
    blocks: list[nn.Module] = []
    for modules in lists:
        if id(modules) not in inner:
            blocks += modules
    return blocks


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return a module's parameters and buffers of floating numbers, each once."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()}
    return list(tensors.values())


Holder = tuple[str, nn.Module, str]
"""(path, module, name of the parameter) of a weight's holder."""


class Ties:
    """Weights that several modules of a wrapped model share and that an adapter changes.

    Each module gets its own, and keeps it if they differ after the merge.
    """

    def __init__(self, model: Any) -> None:
        """Untie the shared weights.

        Raises ValueError for one that no configuration can take apart.
        """
        self.model = model
        self.config = model.config
        self.was = [(c, c.tie_word_embeddings) for c in self._configs()]
        self.shared = _shared_weights(model)
        embeddings: set[int] = set()
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            if module is not None:
                embeddings |= {id(m) for m in module.modules()}
        for holders in self.shared:
            if any(id(module) not in embeddings for _, module, _ in holders):
                names = " and ".join(path.replace(".base_layer", "") for path, _, _ in holders[:2])
                raise ValueError(
                    f"{names} share one weight, of which the adapter changes one alone"
                )
            for _, module, name in holders[1:]:
                shared = getattr(module, name)
                copy = nn.Parameter(shared.detach().clone(), requires_grad=False)
                module._parameters[name] = copy

    def _configs(self) -> list[Any]:
        configs = {id(c): c for c in (self.config, self.config.get_text_config())}
        return [c for c in configs.values() if hasattr(c, "tie_word_embeddings")]

    def settle(self, merged: Any) -> bool:
        """Tie again the weights that came out equal.

        Return whether any came apart; the configuration then says so.
        """
        apart = False
        for holders in self.shared:
            (_, first, name), *rest = holders
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


def _shared_weights(model: nn.Module) -> list[list[Holder]]:
    """Return the holders of each weight that several modules share and an adapter changes."""
    holders: dict[int, list[Holder]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append((path, module, name))
    shared = [group for group in holders.values() if len(group) > 1]
    return [group for group in shared if any(_is_adapted(path) for path, _, _ in group)]


def _is_adapted(path: str) -> bool:
    return path.endswith(".base_layer") or ".base_layer." in path


def in_memory(model: Any) -> dict[str, str]:
    """Return the digest of each weight of a model."""
    state = model.state_dict()
    return {
        name: hashing.of_bytes(
            t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
        for name, t in state.items()
        if t.numel()
    }
