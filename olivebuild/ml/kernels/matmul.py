"""`b @ a` with torch's bits: by our own kernel where it is known to have them on this machine, else
by the BLAS inside torch's library.

Loading that library costs 0.3 s and 100 MB, several times what a small model's merge takes. Which
order of additions it has depends on
the processor, its version and the shape, not on the numbers: so each shape is compared once, on
random numbers.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from olivebuild.core import hashing, numerics
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.host import installed, processor
from olivebuild.ml.kernels import blockwise

VERSION = 1
"""Raise it when our kernel adds in another order."""
_PROVING = threading.Lock()


@dataclass(frozen=True)
class TorchProduct:
    """float32 [n, r] x [r, k] -> [n, k].

    What was found out is kept below `root`, the cache; losing it costs time, nothing else.
    """

    root: Path

    def __call__(self, b: np.ndarray, a: np.ndarray) -> np.ndarray:
        if has_bits_of_torch(self.root, len(b), *a.shape):
            made = blockwise.product_native(b, a)
            if made is not None:
                return made
        return blockwise.product(b, a)


@cache
def has_bits_of_torch(root: Path, n: int, r: int, k: int) -> bool:
    """Whether our kernel gives what torch does for products of this shape here."""
    if blockwise.product_native(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)) is None:
        return False
    told = sorted(numerics.settings().items())
    file = (
        root
        / "proofs"
        / hashing.of_json(["product", VERSION, processor(), installed("torch"), told, n, r, k])
    )
    with _PROVING:
        try:
            known = file.read_text("ascii")
        except (OSError, ValueError):
            known = ""
        if known not in ("same", "other"):
            known = "same" if _compare(n, r, k) else "other"
            try:
                file.parent.mkdir(exist_ok=True)
                write_atomically(file, known.encode())
            except OSError:
                # A cache that can't be written is asked again next time.
                pass
    return known == "same"


def _compare(n: int, r: int, k: int) -> bool:
    random = np.random.default_rng([n, r, k])
    b, a = (random.standard_normal(shape).astype(np.float32) for shape in ((n, r), (r, k)))
    ours = blockwise.product_native(b, a)
    return ours is not None and ours.tobytes() == blockwise.product(b, a).tobytes()
