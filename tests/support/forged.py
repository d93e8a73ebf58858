"""Two texts of one XXH3-128 digest: it is no cryptographic hash, and they are made in no time."""

from __future__ import annotations

import random
import struct

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff72"
    "21b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b532ea371644897a20df94e3819ef46a9deac"
)
"""The beginning of XXH3's default secret, which is added to what is hashed."""
LANE = 2


def forged_pair(seed: int = 0, size: int = 1000) -> tuple[bytes, bytes]:
    """Return two different texts of `size` bytes (from 500 to 1000) and one digest.

    Where 32 bits of a lane equal those of the secret, its product is zero whatever the other 32
    are: these are only added up, so that one more here and one less there make no difference.
    """
    text = bytearray(random.Random(seed).randbytes(size))
    texts = []
    for change in (0, 1):
        for stripe, value in ((1, 1000 + change), (3, 2000 - change)):
            at, key = 64 * stripe + 8 * LANE, 8 * stripe + 8 * LANE
            text[at : at + 4] = SECRET[key : key + 4]
            text[at + 4 : at + 8] = struct.pack("<I", value)
        texts.append(bytes(text))
    return texts[0], texts[1]
