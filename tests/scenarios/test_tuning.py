"""What a training uses of the machine at hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.scenario


@pytest.mark.parametrize(
    ("lengths", "usual"),
    [
        ([512, 512, 3], 512),
        ([600, 600, 600, 512], 600),
        # Too few of them, and too short.
        ([600, 512, 512], 0),
        ([511, 511], 0),
    ],
)
def test_the_length_that_most_rows_have(lengths: list[int], usual: int) -> None:
    from olivebuild.ml.nn.tuning import uniform_length

    assert uniform_length(np.array(lengths)) == usual


@pytest.mark.parametrize(("inner", "size"), [(256, 10 * 64 + 5 * 256), (None, 10 * 64 + 20 * 64)])
def test_what_a_token_takes_grows_with_the_model(inner: int | None, size: int) -> None:
    import torch

    from olivebuild.ml.nn.tuning import bytes_per_token

    config = SimpleNamespace(hidden_size=64, num_hidden_layers=3)
    if inner:
        config.intermediate_size = inner
    config.get_text_config = lambda: config
    model: Any = SimpleNamespace(config=config, dtype=torch.bfloat16)
    assert bytes_per_token(model) == size * 3 * 2
    # Layers that are computed twice keep their inputs, and one layer at a time all.
    assert bytes_per_token(model, recompute=True) == (3 * 64 + 2 * size) * 2
