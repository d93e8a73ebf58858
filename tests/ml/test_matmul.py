"""Products with torch's bits: which way they are computed is found out once for each shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from olivebuild.ml.kernels import blockwise
from olivebuild.ml.kernels.matmul import TorchProduct, has_bits_of_torch


def test_a_product_is_the_one_that_is_computed_by_torch(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    b, a = (random.standard_normal(shape).astype(np.float32) for shape in ((40, 4), (4, 24)))
    product = TorchProduct(tmp_path)(b, a)
    assert product.tobytes() == blockwise.product(b, a).tobytes()
    np.testing.assert_allclose(product, b @ a, rtol=1e-5, atol=1e-5)


def test_what_was_found_out_is_kept_below_the_cache(tmp_path: Path) -> None:
    native = blockwise.product_native(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
    has_bits_of_torch.cache_clear()
    told = has_bits_of_torch(tmp_path, 8, 2, 4)
    files = list(tmp_path.rglob("proofs/*"))
    assert len(files) == (native is not None)
    for file in files:
        assert file.read_text() == ("same" if told else "other")
        file.chmod(0o600)
        # Kept figures are taken on trust, and anything else is found out again.
        file.write_text("other")
        has_bits_of_torch.cache_clear()
        assert not has_bits_of_torch(tmp_path, 8, 2, 4)
        file.write_text("neither")
        has_bits_of_torch.cache_clear()
        assert has_bits_of_torch(tmp_path, 8, 2, 4) == told
    has_bits_of_torch.cache_clear()
