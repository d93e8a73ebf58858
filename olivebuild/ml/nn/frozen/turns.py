"""The turns of a base in FP8, whose weights have two roundings, one for each other step."""

from __future__ import annotations

from typing import Any

from olivebuild.ml.nn.frozen import fp8
from olivebuild.ml.nn.frozen import layers as frozen_layers


class Turns:
    """Has whatever holds a base's weights take the rounding whose turn it is."""

    def __init__(self, model: Any) -> None:
        paged = frozen_layers.of(model)
        in_fp8 = fp8.layers_of(model)
        self._holders = [paged] if paged and in_fp8 else in_fp8
        self.turn = 0
        """0 or 1; always 0 of a base in another format."""

    def begin(self, step: int) -> None:
        """Have the weights of step number `step` from now on.

        It depends on the number alone, so that a training that was stopped goes on as it would have
        gone.
        """
        if self._holders:
            self.turn = step % 2
            for holder in self._holders:
                holder.take_turn(self.turn)
