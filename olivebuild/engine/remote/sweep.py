"""The sweep of a remote cache, in a process of its own (ml/transfer/sweep.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from msgspec import to_builtins

from olivebuild.cache.remote_sweeps import Limits, RemoteSweep
from olivebuild.core.errors import StoreError
from olivebuild.core.exit_reasons import end_of
from olivebuild.core.processes import python
from olivebuild.core.values.typed import convert

MODULE = "olivebuild.ml.transfer.sweep"


def sweep(url: str, limits: Limits) -> RemoteSweep:
    """Find what can go from the remote cache at `url`, and with `delete` let it go.

    Raises StoreError.
    """
    process = subprocess.Popen(
        python("-m", MODULE, url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # Ctrl-C is the command's, which ends it.
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(json.dumps(to_builtins(limits)))
    except BaseException:
        process.terminate()
        # It gives its lease back, and may say more than a pipe holds.
        process.communicate()
        raise
    answer: dict[str, Any] = json.loads(out) if out.strip() else {}
    if fault := answer.get("fault") if answer else end_of(process.returncode, errors):
        raise StoreError(
            str(fault),
            where=str(answer.get("where") or url),
            hint=str(answer.get("hint") or "sweep again"),
        )
    sys.stderr.write(errors)
    return convert(answer["sweep"], RemoteSweep)
