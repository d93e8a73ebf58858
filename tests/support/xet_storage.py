"""The storage that hf_xet uploads to: blocks of chunks, and files as lists of those.

Requests and formats: https://huggingface.co/docs/xet. A block ("xorb") is a run of chunks, each
with a header of 8 bytes; a "shard" names the chunks that files consist of, in records of 48 bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

Answer = tuple[int, dict[str, str], bytes]
RECORD = 48
HAS_VERIFICATION, HAS_SHA256 = 1 << 31, 1 << 30
"""Flags of a file: records that follow those of its segments."""
END = b"\xff" * 32


@dataclass
class XetStorage:
    """Blocks by their names, and files by their SHA-256."""

    PATH = "/xet"
    blocks: dict[str, list[bytes]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    received: int = 0
    """Bytes of blocks."""

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Answer a request; of the token the hub has told nothing else is asked."""
        if m := re.fullmatch(r"/v1/xorbs/default/([0-9a-f]{64})", path):
            inserted = m[1] not in self.blocks
            self.blocks[m[1]] = list(chunks_of(body))
            self.received += len(body)
            return of_json({"was_inserted": inserted})
        if path in ("/v1/shards", "/shards"):
            self._register(body)
            return of_json({"result": 1})
        # No chunk is known beforehand, and nothing else is granted.
        return 404, {}, b""

    def file(self, sha256: str) -> bytes | None:
        return self.files.get(sha256)

    def _register(self, shard: bytes) -> None:
        """Put the files of a shard together, and check them against the SHA-256 they are said to
        have.
        """
        at = RECORD
        while shard[at : at + 32] != END:
            flags, count = words(shard, at + 32)[:2]
            content = b""
            for number in range(count):
                entry = at + RECORD * (1 + number)
                _, size, start, end = words(shard, entry + 32)
                segment = b"".join(self.blocks[name_of(shard[entry : entry + 32])][start:end])
                assert len(segment) == size
                content += segment
            at += RECORD * (1 + count + (count if flags & HAS_VERIFICATION else 0))
            digest = hashlib.sha256(content).hexdigest()
            if flags & HAS_SHA256:
                assert name_of(shard[at : at + 32]) == digest
                at += RECORD
            self.files[digest] = content


def chunks_of(block: bytes) -> Iterator[bytes]:
    """Yield the contents of a block's chunks."""
    at = 0
    while at + 8 <= len(block) and block[at : at + 7] != b"XETBLOB":
        packed = int.from_bytes(block[at + 1 : at + 4], "little")
        scheme = block[at + 4]
        size = int.from_bytes(block[at + 5 : at + 8], "little")
        yield unpacked(block[at + 8 : at + 8 + packed], scheme, size)
        at += 8 + packed


def unpacked(data: bytes, scheme: int, size: int) -> bytes:
    """Return a chunk: as it is, an LZ4 frame, or one of which every fourth byte lies together."""
    if scheme == 0:
        return data
    import pyarrow as pa

    data = pa.decompress(data, size, codec="lz4", asbytes=True)
    if scheme == 1:
        return data
    whole, at = bytearray(size), 0
    for first in range(4):
        count = len(range(first, size, 4))
        whole[first::4] = data[at : at + count]
        at += count
    return bytes(whole)


def words(data: bytes, at: int) -> tuple[int, ...]:
    """Return four numbers of 32 bits."""
    return tuple(int.from_bytes(data[at + 4 * i : at + 4 * i + 4], "little") for i in range(4))


def name_of(digest: bytes) -> str:
    """Return a digest as it is written: four numbers of 64 bits, each from its highest byte."""
    return "".join(digest[at : at + 8][::-1].hex() for at in range(0, 32, 8))


def of_json(data: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(data).encode()
