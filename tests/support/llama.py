"""llama.cpp through llama-cpp-python, where an interpreter has it.

It comes as source and is built for a quarter of an hour, so that no extra brings it:
`python -m venv V && V/bin/pip install llama-cpp-python`, then LLAMA_CPP_PYTHON=V/bin/python.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "LLAMA_CPP_PYTHON"
SCRIPT = Path(__file__).with_name("ask_llama.py")


@cache
def interpreter() -> str:
    """Return an interpreter that imports llama_cpp, "" where there is none."""
    command = os.environ.get(VARIABLE, "")
    if not command:
        return ""
    done = subprocess.run([command, "-c", "import llama_cpp"], capture_output=True, check=False)
    return command if done.returncode == 0 else ""


def ask(file: Path, **questions: Any) -> dict[str, Any]:
    """Return what llama.cpp makes of a file; the questions are those of ask_llama.py."""
    done = subprocess.run(
        [interpreter(), "-P", str(SCRIPT)],
        input=json.dumps({"file": str(file), **questions}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
