"""Packed layers compute what they computed before."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import nn

from olivebuild.ml.kernels.onednn import MACHINES, pack_linear


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="for x86 processors")
def test_packed_layers_compute_the_same_but_for_the_last_digits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 24, bias=False))
    x = torch.randn(3, 5, 32)
    with torch.inference_mode():
        expected = model(x)
        assert pack_linear(model) == 2
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(x[:1, :1]), expected[:1, :1], rtol=1e-5, atol=1e-5)
    assert model[0].weight.shape == (64, 32)


def test_shared_and_short_weights_stay_as_they_are() -> None:
    embedding, head, half = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False), nn.Linear(4, 4)
    head.weight = embedding.weight
    model = nn.ModuleList([embedding, head, half.to(torch.bfloat16)])
    assert pack_linear(model) == 0
    assert head.weight is embedding.weight
