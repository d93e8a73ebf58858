"""Scales that are tuned end to end: what is computed with them, and which way they go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olivebuild.ml.kernels.blockwise import Quantiser, widen
from olivebuild.ml.onnx.calibration.tuning import (
    Matrix,
    Placed,
    Student,
    Untunable,
    _batches,
    _Product,
    matrix_of,
    placed_in,
    tune,
)
from olivebuild.ml.onnx.skeleton import (
    Add,
    Cast,
    Concat,
    Quantised,
    Source,
    TensorRecipe,
    View,
    stacked_rows,
)
from olivebuild.steps.parts.conversion_options import Tuning

CPU = torch.device("cpu")
WORDS, WIDTH = 24, 32


def quantised(**changes: Any) -> Quantised:
    fields: dict[str, Any] = {"bits": 4, "block": 16, "symmetric": False, "scales": "F32"}
    return Quantised(**fields | changes)


def parts_of(weight: np.ndarray, q: Quantised) -> tuple[bytes, bytes, bytes]:
    packed, scales, zeros = q.kernel(weight, "F32")
    return packed.tobytes(), scales.tobytes(), zeros.tobytes()


@settings(max_examples=40)
@given(
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
    block=st.sampled_from([16, 32]),
    scales=st.sampled_from(["F32", "F16"]),
    columns=st.sampled_from([32, 96]),
    seed=st.integers(0, 99),
)
def test_a_stored_tensor_stands_for_what_the_kernel_computes_with(
    bits: Any, symmetric: bool, block: Any, scales: Any, columns: int, seed: int
) -> None:
    weight = np.random.default_rng(seed).standard_normal((5, columns), np.float32)
    q = quantised(bits=bits, symmetric=symmetric, block=block, scales=scales)
    matrix = matrix_of(parts_of(weight, q), weight.shape, q, CPU, tuned=False)
    packed, stored, zeros = Quantiser(bits, block, symmetric, scales)(weight, "F32")
    raw = np.stack([packed & 15, packed >> 4], -1) if bits == 4 else packed
    levels = raw.reshape(5, -1, block).astype(np.float32)
    middle: Any = np.float32(2 ** (bits - 1))
    if not symmetric:
        if bits == 4:
            zeros = np.stack([zeros & 15, zeros >> 4], -1)
        middle = zeros.reshape(5, -1)[:, : columns // block, None].astype(np.float32)
    expected = (levels - middle) * widen(stored, scales).reshape(5, -1)[:, :, None]
    blocks = matrix.levels.float().view(5, -1, block) * matrix.scales.unsqueeze(-1)
    assert np.array_equal(blocks.view(5, columns).numpy(), expected.reshape(5, columns))
    assert np.abs(expected.reshape(5, columns) - weight).max() < 0.6


def test_gradients_are_those_of_the_values_multiplied_out() -> None:
    torch.manual_seed(0)
    levels = torch.randint(-8, 8, (6, WIDTH), dtype=torch.int8)
    given_x, given_scales = torch.randn(2, 3, WIDTH), torch.rand(6, 2)
    grads: list[list[torch.Tensor]] = []
    for compute in (
        lambda x, s: _Product.apply(x, s, levels),
        lambda x, s: x @ (levels.double().view(6, 2, -1) * s.unsqueeze(-1)).view(6, WIDTH).T,
    ):
        # Those multiplied out are computed in float64.
        dtype = torch.float64 if grads else torch.float32
        x, scales = (t.to(dtype, copy=True).requires_grad_() for t in (given_x, given_scales))
        out = compute(x, scales)
        (out * torch.arange(6)).square().sum().backward()
        assert x.grad is not None
        assert scales.grad is not None
        grads.append([out.double(), x.grad.double(), scales.grad.double()])
    for ours, exact in zip(*grads, strict=True):
        assert torch.allclose(ours, exact, rtol=1e-4, atol=1e-3)


def source(name: str, rows: int, start: int = 0, whole: int = 0) -> View:
    node = Source(name, "F32", (whole or rows, WIDTH))
    return View(node, start * WIDTH, (rows, WIDTH), (WIDTH, 1))


def recipe_of(view: View, q: Quantised | None = None) -> TensorRecipe:
    return TensorRecipe(view.transposed, "F32", q or quantised())


def test_a_weight_lies_in_one_tensor_in_several_or_in_a_part() -> None:
    joined = Concat((source("q", 4), source("k", 2)), 0, "F32", (6, WIDTH))
    recipes = {
        "qk": recipe_of(View(joined, 0, (6, WIDTH), (WIDTH, 1))),
        "up": recipe_of(source("gate_up", 3, 3, 6)),
        "gate": recipe_of(source("gate_up", 3, 0, 6)),
        "head": recipe_of(source("words", 5)),
        "again": recipe_of(source("words", 5)),
    }
    placed = placed_in(recipes)
    assert placed["q"] == [Placed("qk", 0, 4)]
    assert placed["k"] == [Placed("qk", 4, 6)]
    assert placed["gate_up"] == [Placed("gate", 0, 3), Placed("up", 0, 3)]
    assert len(placed["words"]) == 1
    with pytest.raises(Untunable, match="gate_up"):
        placed_in({"up": recipes["up"]})
    added = Add(source("norm", 4), 1.0, "F32", (4, WIDTH))
    with pytest.raises(Untunable, match="norm"):
        placed_in({"a": recipe_of(View(added, 0, (4, WIDTH), (WIDTH, 1)))})


def test_cast_rows_are_the_weights_own_where_that_is_asked_for() -> None:
    view = View(Cast(source("w", 4), "F16", (4, WIDTH)), 0, (4, WIDTH), (WIDTH, 1))
    assert stacked_rows(view) is None
    assert stacked_rows(view, cast=True) == [("w", 0, 4)]


class Model(torch.nn.Module):
    """Words in, a matrix, words out by the same weights or others."""

    def __init__(self, *, tied: bool, words: type[torch.nn.Embedding] = torch.nn.Embedding) -> None:
        super().__init__()
        self.words = words(WORDS, WIDTH)
        self.inner = torch.nn.Linear(WIDTH, WIDTH)
        self.head = torch.nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.words.weight
        self.device = CPU

    def get_output_embeddings(self) -> Any:
        return self.head

    def forward(self, input_ids: Any, use_cache: bool) -> Any:
        assert not use_cache
        hidden = self.words(input_ids)
        out = self.head(hidden + torch.tanh(self.inner(hidden)).cumsum(1))
        return type("Output", (), {"logits": out})


def student_of(*, tied: bool, exact: bool = False) -> Student:
    torch.manual_seed(0)
    model = Model(tied=tied).requires_grad_(False)
    names = ["words.weight", "inner.weight"] + ([] if tied else ["head.weight"])
    weights = dict(model.named_parameters(remove_duplicate=False))
    recipes = {n: recipe_of(source(n, len(weights[n]))) for n in names}
    if exact:
        del recipes["words.weight"]
        recipes["head"] = recipe_of(source("words.weight", WORDS))
    matrices = {}
    for key, recipe in recipes.items():
        (name,) = recipe.sources()
        weight = weights[name].numpy()
        matrices[key] = matrix_of(
            parts_of(weight, quantised()), weight.shape, quantised(), CPU, tuned=True
        )
    also = [TensorRecipe(source("words.weight", WORDS), "F32")] if exact else []
    return Student(model, recipes, also, matrices)


def dense(matrix: Matrix) -> Any:
    blocks = matrix.levels.float().view(*matrix.scales.shape, -1) * matrix.scales.unsqueeze(-1)
    return blocks.view(matrix.levels.shape)


@pytest.mark.parametrize(("tied", "exact"), [(True, False), (False, False), (True, True)])
def test_a_student_computes_with_rounded_weights_and_its_model_with_its_own(
    tied: bool, exact: bool
) -> None:
    student = student_of(tied=tied, exact=exact)
    ids = torch.arange(10).view(2, 5)
    kept = torch.ones_like(ids, dtype=torch.bool)
    torch.manual_seed(0)
    plain = Model(tied=tied)
    plain.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0][kept],))
    assert torch.equal(student.logits(ids, kept), plain(ids, False).logits)
    with student.rounded():
        found = student.logits(ids, kept)
    if exact:
        plain.head.weight = torch.nn.Parameter(dense(student.matrices["head"]))
    else:
        for name in student.matrices:
            plain.get_parameter(name).data.copy_(dense(student.matrices[name]))
    if exact:
        plain.inner.weight.data.copy_(dense(student.matrices["inner.weight"]))
    assert torch.allclose(found, plain(ids, False).logits, atol=1e-5)
    assert not torch.allclose(found, student.logits(ids, kept), atol=1e-2)


def test_tuning_brings_a_student_nearer_and_is_the_same_each_time() -> None:
    rows = [np.random.default_rng(i).integers(0, WORDS, 6) for i in range(12)]
    found: list[list[torch.Tensor]] = []
    for _ in range(2):
        told: list[int] = []
        student = student_of(tied=False)
        report = tune(student, rows, Tuning(steps=30, lr=5e-3, batch=4), told.append)
        assert report.after < 0.8 * report.before
        assert told == list(range(1, 31))
        found.append([m.scaled(0, len(m.scales)).detach() for m in student.matrices.values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    other = student_of(tied=False)
    tune(other, rows, Tuning(steps=30, lr=5e-3, batch=4, seed=1), lambda _: None)
    assert any(
        not torch.equal(m.scaled(0, len(m.scales)), a)
        for m, a in zip(other.matrices.values(), found[0], strict=True)
    )


def test_batches_take_every_row_before_any_again() -> None:
    batches = _batches([3, 5, 7, 9, 11], 2, 0)
    taken = [number for _ in range(5) for number in next(batches)]
    assert sorted(taken[:5]) == sorted(taken[5:]) == [3, 5, 7, 9, 11]


def test_rows_without_a_next_token_tune_nothing() -> None:
    student = student_of(tied=False)
    assert tune(student, [np.array([3])], Tuning(steps=2), lambda _: None) == (0.0, 0.0)


class Scaled(torch.nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * 3.0


class Shifted(torch.nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) + 1.0


def of_words(words: type[torch.nn.Embedding], *, looks_up: bool = True) -> tuple[Any, Student]:
    torch.manual_seed(0)
    model = Model(tied=True, words=words).requires_grad_(False)
    weight = model.words.weight.numpy()
    recipes = {"w": recipe_of(source("words.weight", WORDS))}
    matrix = matrix_of(parts_of(weight, quantised()), weight.shape, quantised(), CPU, tuned=True)
    return model, Student(model, recipes, [], {"w": matrix}, looks_up=looks_up)


def test_an_embedding_that_multiplies_its_rows_does_so_with_rounded_ones() -> None:
    model, student = of_words(Scaled)
    ids = torch.arange(WORDS)
    with student.rounded():
        found = model.words(ids)
    assert torch.allclose(found, 3 * dense(student.matrices["w"]), atol=1e-5)
    with pytest.raises(Untunable, match="words"):
        of_words(Shifted)


def test_an_embedding_before_the_graph_is_exact() -> None:
    model, student = of_words(Scaled, looks_up=False)
    with student.rounded():
        assert torch.equal(model.words(torch.arange(3)), 3 * model.words.weight[:3])


def test_a_weight_of_which_rows_are_not_rounded_is_not_tuned() -> None:
    model = Model(tied=True)
    recipes = {"w": recipe_of(source("words.weight", 8, 0, WORDS))}
    with pytest.raises(Untunable, match="words"):
        Student(model, recipes, [], {})
