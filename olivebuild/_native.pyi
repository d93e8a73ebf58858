"""See _native.c. Arrays are contiguous buffers; number formats are 0 BF16, 1 F16, 2 F32.

Paths end with a zero byte each, stats are five 64-bit numbers each.
"""

from typing_extensions import Buffer

HAS_PRODUCT: int

def differing(paths: Buffer, stats: Buffer, threads: int, base: bytes = b"", /) -> bytes: ...
def add_delta(base: Buffer, numbers: int, delta: Buffer, scale: float, out: Buffer, /) -> None: ...
def residual(
    before: Buffer, after: Buffer, numbers: int, probe: Buffer, wrong: Buffer, squares: Buffer, /
) -> None: ...
def product(b: Buffer, a: Buffer, out: Buffer, n: int, r: int, k: int, /) -> None: ...
def quantise(
    values: Buffer,
    numbers: int,
    block: int,
    bits: int,
    symmetric: bool,
    scales: int,
    packed: Buffer,
    scales_out: Buffer,
    zeros: Buffer,
    /,
) -> bool: ...
