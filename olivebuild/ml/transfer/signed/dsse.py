"""Process that signs a statement: from standard input, as a DSSE envelope to standard output.

https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys

from olivebuild.core.errors import BuildError
from olivebuild.ml.transfer.signing import Signer

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def message(payload: bytes) -> bytes:
    """Return what is signed of a payload: its pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def envelope(payload: bytes, signer: Signer) -> dict[str, object]:
    """Return the envelope of a payload. The key's identifier is the SHA-256 of its text."""
    signature = base64.b64encode(signer.signature(message(payload))).decode("ascii")
    key = hashlib.sha256(signer.name.encode()).hexdigest()
    return {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key, "sig": signature}],
    }


def main() -> int:
    try:
        signer = Signer.of_configuration()
    except BuildError as e:
        print(e.fact, file=sys.stderr)
        return 1
    if signer is None:
        print("there is no signing key", file=sys.stderr)
        return 1
    print(json.dumps(envelope(sys.stdin.buffer.read(), signer), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
