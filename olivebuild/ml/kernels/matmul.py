"""Products of matrices with torch's bits, by our own kernel or the BLAS inside torch's library.

Our kernel is used where it is proven to have those bits on this machine. Loading torch's library
costs 0.3 s and 100 MB, several times what a small model's merge takes. Its order of additions
depends on the processor, its version and the shape, not on the numbers: so each shape is compared
once, on random numbers.
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
    """The product float32 [n, r] x [r, k] -> [n, k].

    Comparisons are stored below `root`, the cache; losing them costs time, nothing else.
    """

    root: Path

    def __call__(self, b: np.ndarray, a: np.ndarray) -> np.ndarray:
        if has_bits_of_torch(self.root, len(b), *a.shape):
            product = blockwise.product_native(b, a)
            if product is not None:
                return product
        return blockwise.product(b, a)


@cache
def has_bits_of_torch(root: Path, n: int, r: int, k: int) -> bool:
    """Return whether our kernel gives what torch does for products of this shape here."""
    if blockwise.product_native(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)) is None:
        return False
    settings = sorted(numerics.settings().items())
    file = (
        root
        / "proofs"
        / hashing.of_json(["product", VERSION, processor(), installed("torch"), settings, n, r, k])
    )
    with _PROVING:
        try:
            answer = file.read_text("ascii")
        except (OSError, ValueError):
            answer = ""
        if answer not in ("same", "other"):
            answer = "same" if _compare(n, r, k) else "other"
            try:
                file.parent.mkdir(exist_ok=True)
                write_atomically(file, answer.encode())
            except OSError:
                # A cache that can't be written is asked again next time.
                pass
    return answer == "same"


def _compare(n: int, r: int, k: int) -> bool:
    random = np.random.default_rng([n, r, k])
    b, a = (random.standard_normal(shape).astype(np.float32) for shape in ((n, r), (r, k)))
    ours = blockwise.product_native(b, a)
    return ours is not None and ours.tobytes() == blockwise.product(b, a).tobytes()
