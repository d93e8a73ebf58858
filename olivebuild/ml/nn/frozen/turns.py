"""The turns of a base in FP8, whose weights have two roundings, one for each other step."""

from __future__ import annotations

from typing import Any

from olivebuild.ml.nn.frozen import fp8
from olivebuild.ml.nn.frozen import layers as frozen_layers
from olivebuild.ml.nn.frozen.layers import FrozenLayers


class Turns:
    """Has whatever holds a base's weights take the rounding whose turn it is."""

    def __init__(self, model: Any) -> None:
        paged, in_fp8 = frozen_layers.of(model), fp8.layers_of(model)
        # The second roundings of layers that come and go lie there.
        self._holders: list[FrozenLayers | fp8.Fp8Linear] = [
            layer for layer in in_fp8 if layer.second is not None
        ]
        if paged and in_fp8:
            self._holders.append(paged)
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
