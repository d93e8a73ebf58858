"""What a stopwatch tells of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from olivebuild.ml.benchmark.stopwatch import _memory_by_tool

SMI = """#!/bin/sh
echo "$PPID, 100"
echo "1, 7"
echo "$PPID, [N/A]"
echo "$PPID, 20"
"""


@pytest.mark.skipif(os.name == "nt", reason="the tool is a shell script here")
def test_memory_of_a_gpu_is_that_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _memory_by_tool() is None
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert _memory_by_tool() == 120 * 2**20
