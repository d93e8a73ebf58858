"""What the benchmarks lean on in our own code is there: they are run by hand, and long after a name
has changed.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def checks() -> dict[str, dict[str, object]]:
    """What `rebuild.py` leaves out for its row without checks."""
    body = ast.parse((FOLDER / "rebuild.py").read_text("utf-8")).body
    (found,) = [
        n.value
        for n in body
        if isinstance(n, ast.Assign)
        and isinstance(n.targets[0], ast.Name)
        and n.targets[0].id == "CHECKS"
    ]
    return ast.literal_eval(found)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in checks().items() for name in names]
)
def test_each_check_that_is_left_out_is_one(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(module), name))
