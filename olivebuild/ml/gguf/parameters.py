"""What the header of a GGUF file says of a model's shape, and what it can't say.

A property that llama.cpp has no place for is an error, unless it makes no difference within a
shorter context, which the file then tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import InputError
from olivebuild.ml.gguf.rope import Factors, Rope, head_size

if TYPE_CHECKING:
    from gguf import GGUFWriter

CONFIG = "config.json"
SILU = ("silu", "swish")
TANH_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
EQUAL_HEADS = ("qwen2", "phi3")
"""Architectures whose heads together are as wide as the model."""
LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the models whose queries llama.cpp scales by the width of the model."""
PATTERN = {"gemma2": 2, "gemma3": 6}
"""Every so many layers one attends to all, the others to a window."""


class Parameters:
    """A model's configuration, written into the header of a GGUF file."""

    def __init__(self, architecture: str, config: Any, where: str) -> None:
        self._architecture, self._config = architecture, config
        self._where = f"{where}/{CONFIG}"
        self._rope = Rope(architecture, config, self._where)
        self.notes: list[str] = []

    def write(self, writer: GGUFWriter) -> Factors:
        """Write them; return the tensors of rotary factors.

        Raises InputError for what llama.cpp can't compute.
        """
        config = self._config
        self._check()
        context = self._context()
        heads = int(config.num_attention_heads)
        size = head_size(config)
        writer.add_context_length(context)
        writer.add_embedding_length(int(config.hidden_size))
        writer.add_block_count(int(config.num_hidden_layers))
        writer.add_feed_forward_length(int(config.intermediate_size))
        writer.add_head_count(heads)
        writer.add_head_count_kv(int(getattr(config, "num_key_value_heads", None) or heads))
        writer.add_key_length(size)
        writer.add_value_length(size)
        writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
        writer.add_vocab_size(int(config.vocab_size))
        if self._architecture in PATTERN:
            writer.add_sliding_window(int(config.sliding_window))
        self._write_caps(writer)
        factors = self._rope.write(writer)
        if self._rope.note:
            self.notes.append(self._rope.note)
        return factors

    @property
    def context(self) -> int:
        """Tokens that Modelfiles and the like may ask for: where nothing differs."""
        return self._rope.exact_context or self._context()

    def _refused(self, fact: str) -> InputError:
        return InputError(
            f"{fact}, which llama.cpp does not compute for {self._architecture}",
            where=self._where,
            hint="no GGUF file can say it",
        )

    def _check(self) -> None:
        config, is_gemma = self._config, self._architecture.startswith("gemma")
        names = ("hidden_activation", "hidden_act")
        active = next((v for n in names if (v := getattr(config, n, None))), None)
        if active not in (TANH_GELU if is_gemma else SILU):
            raise self._refused(f"its activation is {active}")
        wide = head_size(config) * int(config.num_attention_heads)
        if self._architecture in EQUAL_HEADS and wide != config.hidden_size:
            raise self._refused(f"its heads are {wide} wide, the model {config.hidden_size}")
        if is_gemma:
            self._check_gemma()

    def _check_gemma(self) -> None:
        config = self._config
        if not config.tie_word_embeddings:
            raise self._refused("its output layer is not its embedding")
        if getattr(config, "use_bidirectional_attention", None):
            raise self._refused("it attends in both directions")
        scalar = getattr(config, "query_pre_attn_scalar", None)
        if scalar is not None:
            usual = head_size(config)
            if config.num_hidden_layers == LARGEST[self._architecture]:
                usual = config.hidden_size // config.num_attention_heads
            if scalar != usual:
                raise self._refused(f"query_pre_attn_scalar is {scalar}, and not {usual}")
        if self._architecture in PATTERN:
            self._check_layers()

    def _check_layers(self) -> None:
        every = PATTERN[self._architecture]
        usual = [
            "full_attention" if (i + 1) % every == 0 else "sliding_attention"
            for i in range(self._config.num_hidden_layers)
        ]
        if list(self._config.layer_types) != usual:
            raise self._refused(f"not every {every}th of its layers alone attends to all")

    def _write_caps(self, writer: GGUFWriter) -> None:
        """Write where scores and logits are capped."""
        attention = getattr(self._config, "attn_logit_softcapping", None)
        final = getattr(self._config, "final_logit_softcapping", None)
        if self._architecture == "gemma2":
            if not (attention and final):
                raise self._refused("it caps no scores or no logits")
            writer.add_attn_logit_softcapping(float(attention))
        elif attention:
            raise self._refused("it caps its scores")
        if final and self._architecture not in PATTERN:
            raise self._refused("it caps its logits")
        if final:
            writer.add_final_logit_softcapping(float(final))

    def _context(self) -> int:
        """Return how many tokens llama.cpp computes as transformers does.

        Of a window that it does not know it is as long as the window.
        """
        config = self._config
        longest = int(config.max_position_embeddings)
        if self._architecture in PATTERN:
            return longest
        window = getattr(config, "sliding_window", None)
        layers = getattr(config, "layer_types", None)
        if layers is not None and "sliding_attention" not in layers:
            window = None
        if window is None or window >= longest:
            return longest
        note = (
            f"the file's context is {window} tokens and not {longest}: beyond its sliding window "
            "llama.cpp would attend to what the model does not"
        )
        if note not in self.notes:
            self.notes.append(note)
        return int(window)
