"""numpy imported without OpenBLAS's threads.

Each spins for a tenth of a second once it has started, and the steps that multiply by OpenBLAS have
threads of their own.
"""

from __future__ import annotations

import os

_given = os.environ.get("OPENBLAS_NUM_THREADS")
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy  # noqa: E402, F401

# Programs that this process starts choose their own number of threads.
if _given is None:
    del os.environ["OPENBLAS_NUM_THREADS"]
else:
    os.environ["OPENBLAS_NUM_THREADS"] = _given
