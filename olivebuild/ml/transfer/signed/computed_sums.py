"""Process that prints the SHA-256 of the tensors that a manifest has computed, not stored.

Its arguments are the cache and the manifest's blob; it prints `<digest> <SHA-256>` a line. It ends
with 1 where they come out differently on this machine, or what they come from is not here.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from olivebuild.api.action import ActionInput
from olivebuild.cache.store import Store
from olivebuild.core.errors import BuildError, Damaged

PIECE = 16 << 20
"""Bytes that are computed at once."""


def main(cache: str, manifest: str) -> int:
    from olivebuild.ml.weights.lora import MergedWeight, open_input

    try:
        model = open_input(Store(Path(cache)), ActionInput("", "", "merged", "", manifest=manifest))
        for shard in model.shards:
            for weight in shard.weights:
                if not isinstance(weight, MergedWeight):
                    continue
                sha256 = hashlib.sha256()
                for start in range(0, weight.size, PIECE):
                    sha256.update(weight.read(start, min(PIECE, weight.size - start)))
                print(weight.digest, sha256.hexdigest(), flush=True)
    except (BuildError, Damaged, OSError) as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
