"""Functions that threads share are called on one number first, whoever computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from olivebuild.cache.store import Store
from olivebuild.ml.kernels import mkl
from olivebuild.ml.models import load
from olivebuild.steps.onnx import OnnxFields
from tests.scenarios.steps import by_builder

pytestmark = [pytest.mark.scenario, pytest.mark.usefixtures("one_thread")]


class FirstSizes(TorchDispatchMode):
    """The size of what each function was first called on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0].rstrip("_")
        if name in mkl.FUNCTIONS and args[0].device.type == "cpu":
            self.found.setdefault(name, args[0].numel())
        return func(*args, **(kwargs or {}))


def ask(llama: Path, tmp_path: Path, store: Store) -> None:
    load.load_model(llama, torch.float32)(torch.arange(20)[None])


def convert(llama: Path, tmp_path: Path, store: Store) -> None:
    by_builder(tmp_path / "built", store, OnnxFields(block_size=32), llama)


@pytest.mark.parametrize("work", [ask, convert])
def test_a_function_is_called_on_one_number_before_threads_share_it(
    work: Callable[[Path, Path, Store], None], llama: Path, tmp_path: Path, store: Store
) -> None:
    mkl.warm_up_mkl.cache_clear()
    with FirstSizes() as first:
        work(llama, tmp_path, store)
    assert {"cos", "sin"} <= first.found.keys()
    assert set(first.found.values()) == {1}
