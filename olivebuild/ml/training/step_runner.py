"""One optimizer step: the gradient of a batch, clipped and scaled, and AdamW on float32 weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.nn.forward import Forward, labels_of
from olivebuild.ml.nn.packing import Packed, Padded
from olivebuild.ml.training.data_parallel import Ranks, local_share
from olivebuild.ml.training.parameters import Trainable

if TYPE_CHECKING:
    from olivebuild.steps.parts.training import Training

SCALINGS = 24
"""The most times that the scale of one batch's loss is halved."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of AdamW's moments, in torch's optimizer state and in a training's state."""


class StepRunner:
    """The parts of one optimizer step: forward, trainable weights, optimizer, scale and ranks.

    `ranks` are processes that compute the gradients of their shares of each batch. Everything else
    happens in this process.
    """

    def __init__(self, forward: Forward, training: Training, ranks: Ranks | None = None) -> None:
        self.forward, self.ranks = forward, ranks
        self.trainable = Trainable(forward.model)
        self.max_grad_norm = training.max_grad_norm
        self.optimizer = torch.optim.AdamW(
            self.trainable.weights,
            lr=training.lr,
            fused=training.speed == "auto" and forward.device.type in ("cpu", "cuda"),
            betas=(0.9, training.beta2),
            weight_decay=training.weight_decay,
        )
        # The gradients of float16 would else fall below its smallest number.
        self.scale = 2.0**12 if forward.model.dtype == torch.float16 else 1.0

    def lay_out(self, rows: list[Tokens]) -> list[Packed | Padded] | None:
        """Return this process's share of a batch as micro-batches.

        None of an empty batch, and of one whose gradient is a graph's.
        """
        share = self._local_share(rows)
        return self.forward.lay_out(share) if rows and not self.forward.replays(share) else None

    def run(
        self, step: int, lr: float, rows: list[Tokens], layout: list[Packed | Padded] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make step number `step` (from 0); return the loss before it and its gradient's norm."""
        loss, norm = self._gradient(step, rows, layout)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.trainable.use()
        return loss, norm

    def _gradient(
        self, step: int, rows: list[Tokens], layout: list[Packed | Padded] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the weights the batch's clipped gradient; return its loss and norm."""
        labels = labels_of(rows)
        self.forward.begin(step)
        for _ in range(SCALINGS):
            self.forward.scale = self.scale
            if self.ranks:
                self.ranks.broadcast(step, self.scale, self.trainable)
            loss = self.forward.backward(self._local_share(rows), layout, labels)
            self.trainable.take_gradients(self.scale)
            if self.ranks:
                loss = self.ranks.all_reduce(self.trainable, loss)
            self.trainable.fill_gradients()
            norm = torch.nn.utils.clip_grad_norm_(self.trainable.weights, self.max_grad_norm)
            if self.scale == 1 or bool(torch.isfinite(norm)):
                break
            # The gradient left the number format's range: the same batch again, scaled less.
            self.optimizer.zero_grad(set_to_none=True)
            self.scale /= 2
        return loss, norm

    def _local_share(self, rows: list[Tokens]) -> list[Tokens]:
        return local_share(rows, 0, self.ranks.count) if self.ranks else rows

    def state(self) -> dict[str, torch.Tensor]:
        """Return weights, moments and random states by the names that they have in a state."""
        tensors: dict[str, torch.Tensor] = {"rng.cpu": torch.get_rng_state()}
        if self.forward.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.forward.device)
        for name, weight in zip(self.trainable.names, self.trainable.weights, strict=True):
            tensors[f"weight.{name}"] = weight
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = self.optimizer.state[weight][moment]
        return tensors

    def fits(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Tell whether a state's tensors have the names and shapes of this training's."""
        for name, weight in zip(self.trainable.names, self.trainable.weights, strict=True):
            for part in ("weight", *MOMENTS):
                tensor = tensors.get(f"{part}.{name}")
                if tensor is None or tensor.shape != weight.shape:
                    return False
        return True

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Take weights, moments and random states from a state after `step` steps that `fits`."""
        fused = self.optimizer.param_groups[0].get("fused")
        for name, weight in zip(self.trainable.names, self.trainable.weights, strict=True):
            weight.copy_(tensors[f"weight.{name}"])
            # Where AdamW is fused, its kernel reads the count of steps on the device.
            steps = torch.tensor(float(step))
            self.optimizer.state[weight] = {
                "step": steps.to(weight.device) if fused else steps,
                **{m: tensors[f"{m}.{name}"].to(weight.device) for m in MOMENTS},
            }
        self.trainable.use()
        torch.set_rng_state(tensors["rng.cpu"])
        if self.forward.device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.forward.device)
