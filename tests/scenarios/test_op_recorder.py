"""Operations of torch, seen as they run: how a tensor came from weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.scenario


@pytest.fixture
def watched() -> Any:
    import torch

    from olivebuild.ml.onnx.op_recorder import OpRecorder
    from olivebuild.ml.onnx.skeleton import Source

    watcher = OpRecorder()
    weight, bias = torch.arange(24.0).reshape(4, 6), torch.arange(6.0)
    watcher.know(weight, Source("w", "F32", (4, 6)))
    watcher.know(bias, Source("x.bias", "F32", (6,)))
    return watcher, weight, bias


def test_views_sums_casts_and_concatenations_are_known(watched: Any) -> None:
    import torch

    from olivebuild.ml.onnx.skeleton import Add, Cast, Concat, Source, View

    watcher, weight, _ = watched
    source = Source("w", "F32", (4, 6))
    with watcher:
        part = weight[1:3].T
        added = weight + 1
        cast = weight.to(torch.float16)
        both = torch.cat([weight[:1], weight], 0)
    assert watcher.view(part) == View(source, 6, (6, 2), (1, 6))
    whole = View(source, 0, (4, 6), (6, 1))
    assert watcher.node(added) == Add(whole, 1.0, "F32", (4, 6))
    assert watcher.node(cast) == Cast(whole, "F16", (4, 6))
    first = View(source, 0, (1, 6), (6, 1))
    assert watcher.node(both) == Concat((first, whole), 0, "F32", (5, 6))
    assert watcher.leak == ""


def is_untouched(tensor: Any) -> bool:
    """Return whether all of a tensor's pages but those at its ends take no memory."""
    import mmap

    page = mmap.PAGESIZE
    first = -(-tensor.untyped_storage().data_ptr() // page)
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(8 * first)
        entries = pages.read(8 * (tensor.nbytes // page - 2))
    return not any(byte & 0x80 for byte in entries[7::8])


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="needs Linux's page map")
def test_what_recipes_express_takes_no_memory_until_it_is_read(watched: Any) -> None:
    import torch

    from olivebuild.ml.onnx.op_recorder import Escapes
    from olivebuild.ml.onnx.skeleton import Source

    watcher, _, _ = watched
    # Above 32 MiB the allocator takes new pages from the system, and none that others have used.
    rows = torch.arange(1 << 23, dtype=torch.float32).reshape(-1, 1024)
    watcher.know(rows, Source("rows", "F32", tuple(rows.shape)))
    with watcher, Escapes(watcher):
        both = torch.cat([rows, rows[:256]], 0)
        half = both.T.contiguous().to(torch.bfloat16)
        assert watcher.is_hollow(both)
        assert watcher.is_hollow(half)
        assert watcher.is_hollow(half[3:].T)
        assert is_untouched(both)
        total = half.float().sum()
        assert not watcher.is_hollow(half)
        values = both.detach().numpy()
    expected = torch.cat([rows, rows[:256]], 0)
    assert (values == expected.numpy()).all()
    assert torch.equal(half, expected.T.contiguous().to(torch.bfloat16))
    assert float(total) == float(half.float().sum())
    assert watcher.leak == ""


def test_what_is_computed_from_hollow_tensors_has_the_right_values(watched: Any) -> None:
    import torch

    from olivebuild.ml.onnx.skeleton import Source

    watcher, _, _ = watched
    rows = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    watcher.know(rows, Source("rows", "F32", (256, 256)))
    with watcher:
        more = rows + 1
        assert watcher.is_hollow(more)
        product = more @ more
        more.mul_(2)
    assert torch.equal(product, (rows + 1) @ (rows + 1))
    assert torch.equal(more, (rows + 1) * 2)
    assert watcher.node(more) == "the builder computes with aten.mul_.Tensor"


def test_what_is_computed_otherwise_is_unproven(watched: Any) -> None:
    import torch

    from olivebuild.ml.weights.errors import NotProvenEqual

    watcher, weight, _ = watched
    with watcher:
        product = weight @ weight.T
    with pytest.raises(NotProvenEqual, match=r"the builder computes with aten\.mm"):
        watcher.view(product)
    with pytest.raises(NotProvenEqual, match="a tensor of unknown origin"):
        watcher.view(torch.ones(2))


def test_values_that_a_program_reads_are_a_leak(watched: Any) -> None:
    import torch

    watcher, weight, bias = watched
    with watcher:
        assert bool(torch.count_nonzero(bias) > 0)
    assert watcher.leak == ""
    with watcher:
        float(weight[0, 1])
    assert "the builder reads values of weights" in watcher.leak
