"""numpy without OpenBLAS's threads: each spins for a tenth of a second once it has started, and no
product of these steps is OpenBLAS's.
"""

from __future__ import annotations

import os

_given = os.environ.get("OPENBLAS_NUM_THREADS")
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy  # noqa: E402, F401

# The programs that this process starts have their own mind about threads.
if _given is None:
    del os.environ["OPENBLAS_NUM_THREADS"]
else:
    os.environ["OPENBLAS_NUM_THREADS"] = _given
