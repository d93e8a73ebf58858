"""Threads of an ONNX model: no more than the cores that the process may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from olivebuild.ml.models import genai
if sys.argv[2] != "0":
    genai.use_threads(int(sys.argv[2]))
print(genai.threads_of(Path(sys.argv[1])))
"""


def asked(folder: Path, session: dict[str, int], told: int = 0) -> int:
    """Return what a process says that may use one core."""
    config = {"model": {"decoder": {"session_options": session}}}
    (folder / "genai_config.json").write_text(json.dumps(config), "utf-8")
    command = [sys.executable, "-c", ASK, str(folder), str(told)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux has it")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs more cores than it uses")
def test_a_process_with_few_of_the_cores_starts_no_more_threads(tmp_path: Path) -> None:
    assert asked(tmp_path, {}) == 1
    # What is told goes first: here, or by the model's own configuration.
    assert asked(tmp_path, {}, told=2) == 2
    assert asked(tmp_path, {"intra_op_num_threads": 3}) == 0


def test_a_process_with_all_cores_leaves_it_to_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.core import host
    from olivebuild.ml.models import genai

    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {}}}', "utf-8")
    monkeypatch.setattr(host, "cores", os.cpu_count)
    assert genai.threads_of(tmp_path) == 0


def test_a_containers_share_of_time_is_no_more_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.core import host
    from olivebuild.ml.models import genai

    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {}}}', "utf-8")
    monkeypatch.setattr(host, "cores", os.cpu_count)
    monkeypatch.setattr(host, "physical_cores", lambda: 64)
    monkeypatch.setattr(host, "cpu_quota", lambda: 1.5)
    assert genai.threads_of(tmp_path) == 2


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"model": {"encoder": {}}}', '{"model": {"decoder": null}}']
)
def test_a_configuration_that_tells_nothing_is_left_to_the_runtime(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.core import host
    from olivebuild.ml.models import genai

    (tmp_path / "genai_config.json").write_text(text, "utf-8")
    monkeypatch.setattr(host, "cpu_quota", lambda: 0.5)
    assert genai.threads_of(tmp_path) == 0
    assert genai.threads_of(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({"cpu.max": ""}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_a_quota_is_what_the_control_group_says(
    files: dict[str, str], quota: float, tmp_path: Path
) -> None:
    from olivebuild.core import host

    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "ascii")
    assert host.cpu_quota(str(tmp_path)) == quota
