"""oneMKL's vector math, warmed up before threads share it.

torch computes functions of many numbers by it on x86 processors. oneMKL chooses the code for a
function at its first call. Up to oneMKL 2024.2, which torch 2.13 still brings, threads that make
that call at once may each get their share by code of the lowest accuracy (errors of 1e-4 in a
cosine), that once: equal inputs then give other bytes.
https://github.com/pytorch/pytorch/issues/188792
"""

from __future__ import annotations

import functools

import torch

FUNCTIONS = (
    "acos",
    "asin",
    "atan",
    "cos",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "log",
    "log10",
    "log2",
    "sin",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
)
"""Those that torch gives to oneMKL (ATen/cpu/vml.h, torch 2.13)."""


@functools.cache
def warm_up_mkl() -> None:
    """Call each function on one number, which no threads share.

    To be called before a library computes with torch.
    """
    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(number)
