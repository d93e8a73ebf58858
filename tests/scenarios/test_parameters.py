"""The weights that are trained, in half precision and in float32."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.scenario


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_steps_are_taken_in_float32(scale: float) -> None:
    import torch

    from olivebuild.ml.training.parameters import Trainable

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2).to(torch.bfloat16))
    model[0].bias.requires_grad_(False)
    trainable = Trainable(model)
    assert trainable.names == ["0.weight", "1.weight", "1.bias"]
    # What is float32 already is stepped itself.
    assert [a is b for a, b in zip(trainable.used, trainable.weights, strict=True)] == [
        True,
        False,
        False,
    ]
    assert all(weight.dtype == torch.float32 for weight in trainable.weights)
    for parameter in trainable.used:
        parameter.grad = torch.full_like(parameter, scale)
    trainable.take_gradients(scale)
    for weight in trainable.weights:
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
        assert bool((weight.grad == 1).all())
    assert [p.grad is None for p in trainable.used] == [False, True, True]
    before = trainable.used[1].detach().clone()
    with torch.no_grad():
        # Less than the last bit of a bfloat16 of that size, and not lost.
        for _ in range(256):
            trainable.weights[1] += 2**-12
    trainable.use()
    assert bool((trainable.used[1] != before).any())
    torch.testing.assert_close(trainable.used[1].float(), before.float() + 2**-4, atol=1e-2, rtol=0)


def test_a_process_without_rows_has_no_gradients() -> None:
    import torch

    from olivebuild.ml.training.parameters import Trainable

    trainable = Trainable(torch.nn.Linear(2, 2).to(torch.bfloat16))
    trainable.take_gradients(4.0)
    assert [weight.grad for weight in trainable.weights] == [None, None]
