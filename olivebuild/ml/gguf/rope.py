"""Rotary embeddings in GGUF: base, scaling, and the factors of frequencies.

What llama.cpp makes of them: src/models/*.cpp and `llama_model_base::load_hparams` there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import RopeScalingType

from olivebuild.core.errors import InputError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from numpy.typing import NDArray

Factors = dict[str, "NDArray[np.float32]"]
"""Name of a tensor -> factors, one for each pair of dimensions."""


class Rope:
    """The rotary embedding of a model, from its configuration.

    `parameters` are those of layers that attend to all; `local` those of sliding ones, where they
    have some of their own.
    """

    def __init__(self, architecture: str, config: Any, where: str) -> None:
        parameters = dict(config.rope_parameters or {})
        self.local: Mapping[str, Any] | None = None
        if "full_attention" in parameters:
            self.local = parameters.get("sliding_attention")
            parameters = dict(parameters["full_attention"])
        self.parameters = parameters
        self._architecture, self._config, self._where = architecture, config, where
        self.kind = str(parameters.get("rope_type") or "default")
        self.theta = float(parameters["rope_theta"])

    @property
    def dimensions(self) -> int:
        """Dimensions of a head that are rotated."""
        share = float(self.parameters.get("partial_rotary_factor") or 1.0)
        return int(head_size(self._config) * share)

    def write(self, writer: GGUFWriter) -> Factors:
        """Write what the header says of it; return the factors, which are tensors.

        Raises InputError for a kind of scaling that llama.cpp has not for the architecture.
        """
        writer.add_rope_dimension_count(self.dimensions)
        writer.add_rope_freq_base(self.theta)
        self._write_local(writer)
        kinds = {
            "default": self._no_factors,
            "linear": lambda: self._linear(writer),
            "yarn": lambda: self._yarn(writer),
        }
        if self._architecture == "llama":
            kinds["llama3"] = self._llama3
        if self._architecture == "phi3":
            kinds = {"default": self._no_factors, "longrope": lambda: self._longrope(writer)}
        if self._architecture.startswith("gemma"):
            kinds.pop("yarn")
        if self.kind not in kinds:
            raise self._refused(f"rope_type {self.kind}")
        return kinds[self.kind]()

    def _refused(self, what: str) -> InputError:
        fact = f"llama.cpp has no {what} for the architecture {self._architecture}"
        return InputError(fact, where=self._where, hint="no GGUF file can say it")

    def _write_local(self, writer: GGUFWriter) -> None:
        if self.local is None:
            return
        if str(self.local.get("rope_type") or "default") != "default":
            raise self._refused("scaling of local layers")
        writer.add_rope_freq_base_swa(float(self.local["rope_theta"]))

    def _no_factors(self) -> Factors:
        return {}

    def _linear(self, writer: GGUFWriter) -> Factors:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(self.parameters["factor"]))
        return {}

    def _yarn(self, writer: GGUFWriter) -> Factors:
        if unusual := sorted(
            {"attention_factor", "mscale", "mscale_all_dim"} & {k for k, v in self._set().items()}
        ):
            raise self._refused(f"{unusual[0]} of yarn")
        if self.parameters.get("truncate") is False:
            raise self._refused("truncate: false of yarn")
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(self.parameters["factor"]))
        writer.add_rope_scaling_orig_ctx_len(self._original())
        writer.add_rope_scaling_yarn_beta_fast(float(self.parameters.get("beta_fast") or 32))
        writer.add_rope_scaling_yarn_beta_slow(float(self.parameters.get("beta_slow") or 1))
        return {}

    def _set(self) -> dict[str, Any]:
        return {name: value for name, value in self.parameters.items() if value is not None}

    def _original(self) -> int:
        told = self.parameters.get("original_max_position_embeddings")
        return int(
            told
            or getattr(self._config, "original_max_position_embeddings", None)
            or self._config.max_position_embeddings
        )

    def _llama3(self) -> Factors:
        """As transformers computes them, `_compute_llama3_parameters`."""
        told, size = self.parameters, self.dimensions
        frequencies = 1.0 / self.theta ** (np.arange(0, size, 2, dtype=np.float64) / size)
        factor, original = float(told["factor"]), self._original()
        low, high = float(told["low_freq_factor"]), float(told["high_freq_factor"])
        waves = 2 * math.pi / frequencies
        smooth = (original / waves - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        factors = np.where(waves > original / low, factor, between)
        factors = np.where(waves < original / high, 1.0, factors)
        return {"rope_freqs.weight": factors.astype(np.float32)}

    def _longrope(self, writer: GGUFWriter) -> Factors:
        """As transformers computes it, `_compute_longrope_parameters`."""
        told, pairs = self._set(), self.dimensions // 2
        original, longest = self._original(), int(self._config.max_position_embeddings)
        scale = float(told.get("factor") or longest / original)
        attention = told.get("attention_factor")
        if attention is None:
            attention = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(attention))
        factors = {}
        for name in ("long", "short"):
            values = np.asarray(told[f"{name}_factor"], dtype=np.float32)
            if values.shape != (pairs,):
                fact = f"{name}_factor has {values.size} numbers, and {pairs} pairs are rotated"
                raise InputError(fact, where=self._where, hint="is config.json this model's?")
            factors[f"rope_factors_{name}.weight"] = values
        return factors

    @property
    def exact_context(self) -> int | None:
        """Most tokens of a context in which short texts are computed as transformers does.

        None where every context does.
        """
        return self._original() if self.kind == "longrope" else None

    @property
    def note(self) -> str:
        """What llama.cpp does otherwise than transformers; "" where nothing."""
        if self.kind != "longrope":
            return ""
        original = self._original()
        return (
            f"llama.cpp takes the long rotary factors whenever its context is over {original} "
            f"tokens, also for shorter texts: run it with a context of {original} for those"
        )


def head_size(config: Any) -> int:
    """Return the dimensions of a head."""
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)
