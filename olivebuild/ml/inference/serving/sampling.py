"""The choice of the next token, and the texts at which an answer stops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from olivebuild.core.errors import StepError
from olivebuild.ml.inference.sessions import Logits


def sample(row: Logits, temperature: float, top_p: float, draw: np.random.Generator) -> int:
    """Return the likeliest token, or at a temperature above 0 one that is drawn.

    `row` is float32 [vocabulary]. Drawn is among the likeliest tokens that have `top_p` of all
    together (Holtzman et al. 2020). Raises StepError for logits that are no numbers.
    """
    best = float(row.max())
    if not np.isfinite(best):
        raise StepError(
            "the model's logits are not numbers",
            hint="a benchmark's report tells more; was the model trained to NaN?",
        )
    if temperature <= 0:
        return int(row.argmax())
    # The likeliest token is at 0, so that no temperature is too small.
    with np.errstate(over="ignore"):
        scaled = (row.astype(np.float64) - best) / temperature
    if top_p < 1:
        scaled = np.where(_nucleus(scaled, top_p), scaled, -np.inf)
    # The greatest of logits with Gumbel noise is a draw from their softmax.
    return int((scaled + draw.gumbel(size=scaled.shape)).argmax())


def _nucleus(scaled: Logits, top_p: float) -> np.ndarray:
    """Return which tokens are the likeliest that have `top_p` of all; one at least."""
    shares = np.exp(scaled)
    order = np.argsort(-shares, kind="stable")
    before = np.cumsum(shares[order]) - shares[order]
    kept = np.zeros(len(shares), bool)
    kept[order[before < top_p * shares.sum()]] = True
    kept[order[0]] = True
    return kept


class Stops:
    """Texts that end an answer; what may become one is held back until that is known."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)
        self._held = ""
        self.is_hit = False

    def add(self, piece: str) -> str:
        """Take in more text; return what is certain to stand before a stop."""
        self._held += piece
        places = [i for text in self._texts if (i := self._held.find(text)) >= 0]
        if places:
            self.is_hit = True
            return self._let(min(places))
        return self._let(len(self._held) - self._open())

    def rest(self) -> str:
        """Return what was held back, at an answer's end."""
        return self._let(len(self._held))

    def _let(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _open(self) -> int:
        """Return how many of the last characters may be the beginning of a stop."""
        longest = max(map(len, self._texts), default=1) - 1
        return next(
            (
                n
                for n in range(min(longest, len(self._held)), 0, -1)
                if any(text.startswith(self._held[-n:]) for text in self._texts)
            ),
            0,
        )
