"""The quantiser of ml/kernels/blockwise.py in torch, for CUDA: the same operations, the same bits.

It is worth its import only for much work: see `kernel_for` in ml/onnx/assemble.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from olivebuild.ml.kernels.blockwise import Quantiser

SCALES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class TorchQuantiser(Quantiser):
    """Takes and gives numpy arrays, as Quantiser does; computes on `device`."""

    device: str = field(default="cuda")

    def _by_native(self, *_: Any) -> bool:
        return False

    def _blocks(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        top, middle = float(2**self.bits - 1), float(2 ** (self.bits - 1))
        levels = torch.from_numpy(values).to(self.device)
        high, low = levels.amax(0), levels.amin(0)
        none = torch.zeros_like(high)
        if self.symmetric:
            ends = torch.where(high > -low, high, low)
            scale = torch.where(ends == 0, levels[0], ends) / -middle
            zero = torch.full_like(high, middle)
        else:
            high, low = high.clamp(min=0), low.clamp(max=0)
            scale = (high - low) / torch.full_like(high, top)
            zero = (0.5 - torch.where(scale != 0, low / scale, none)).floor().clamp(0, top)
        stored = scale.to(SCALES[self.scales])
        used = stored.float() if self.scales == "F16" else scale
        levels = levels * torch.where(used != 0, torch.ones_like(used) / used, none)
        levels = (levels + zero + 0.5).clamp(0, top + 0.5).to(torch.uint8)
        if self.bits == 4:
            levels = levels[0::2] | (levels[1::2] << 4)
        bits = stored.cpu()
        scales = (
            bits.view(torch.int16).numpy().view(np.uint16)
            if self.scales == "BF16"
            else bits.numpy()
        )
        return levels.T.contiguous().cpu().numpy(), scales, zero.to(torch.uint8).cpu().numpy()
