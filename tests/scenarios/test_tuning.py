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


@pytest.mark.parametrize(
    ("vocabulary", "packed", "linear", "expected"),
    [
        # A plain head's logits are in pieces; whole ones are there without a layer's gradients.
        (100, True, True, 2 * (3 * 64 + 2 * 1920)),
        (9000, True, True, 9000 * 10),
        (100, True, False, 2 * (3 * 64 + 2 * 1920) + 100 * 10),
        (100, False, True, 2 * (3 * 64 + 2 * 1920) + 100 * 10),
    ],
)
def test_what_a_token_takes_where_layers_are_computed_twice(
    vocabulary: int, packed: bool, linear: bool, expected: int
) -> None:
    import torch

    from olivebuild.ml.nn.forward import Setup
    from olivebuild.ml.nn.tuning import bytes_per_token_twice

    config = SimpleNamespace(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, vocab_size=vocabulary
    )
    config.get_text_config = lambda: config
    model: Any = SimpleNamespace(config=config, dtype=torch.bfloat16)
    setup = Setup(packed=packed, share_prefixes=False, tokens_per_micro_batch=1)
    setup.linear_head = linear
    assert bytes_per_token_twice(model, setup) == expected
