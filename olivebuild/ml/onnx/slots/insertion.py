"""Slots for adapters, put into the graph of a skeleton.

A module's slot is a pair of the graph's inputs, a [k, rank] and b [rank, n], and the nodes that add
x @ a @ b to what the module's product with its (quantised) weight gives. The rank is any. Both
inputs have defaults that add nothing: of rank 0 for the processor, of rank 1 elsewhere, where
not every kernel takes an empty matrix.

Which product is which module's is read from the recipes of the skeleton. A product may hold several
modules (query, key and value in one), or a part of one (gate of Phi-3's gate_up_proj).

Inputs with defaults: https://github.com/onnx/onnx/blob/main/docs/IR.md (Graphs, initializer)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from msgspec import Struct
from onnx import TensorProto, helper

from olivebuild.core.errors import InputError, Where
from olivebuild.core.fs.small_files import read_json
from olivebuild.formats.structure.adapter_slots import NAME, Dtype, Slots, inputs_of
from olivebuild.ml.onnx.skeleton import Cast, Concat, Skeleton, Source, TensorRecipe, View

PRODUCTS = ("MatMul", "MatMulNBits")
LAYER = re.compile(r"\.\d+\.")
TYPES: dict[int, Dtype] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}
FORMATS = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}


class Piece(Struct, frozen=True):
    """Rows `start` to `stop` of a module's weight [n, k]."""

    module: str
    start: int
    stop: int


class Product(Struct, frozen=True):
    """A product of the graph: x [.., k] with the rows of modules' weights, one after the other.

    `dtype` is one of onnx.TensorProto's types.
    """

    node: str
    pieces: tuple[Piece, ...]
    k: int
    dtype: int


def insert(
    folder: Path,
    skeleton: Skeleton,
    wanted: Sequence[str] | str,
    *,
    rank: int,
    where: Where | None = None,
) -> None:
    """Put slots into the graph in `folder`, and write what they are beside it.

    `wanted` are names of modules, or ends of names after a dot; `all-linear` are all of the layers.
    `rank` is that of the defaults. Raises InputError for a name that no product has, and for a
    module of whose rows some are in no product.
    """
    file = folder / "model.onnx"
    model = onnx.load(file, load_external_data=False)
    shapes = {name: s for recipe in skeleton.tensors for name, s in _shapes(recipe.view)}
    products = [p for p in _products(model.graph, skeleton, shapes) if _in_layer(p)]
    modules = list(dict.fromkeys(piece.module for p in products for piece in p.pieces))
    named = _named(modules, wanted, where)
    taken = _with_neighbours(products, named)
    types = {p.dtype for p in taken}
    if len(types) > 1:
        raise InputError(
            "the layers compute in more than one number format, and an adapter has one",
            where=where,
            hint="name modules of one format in `slots`",
        )
    slots = {
        piece.module: (p.k, shapes[f"{piece.module}.weight"][0])
        for p in taken
        for piece in p.pieces
    }
    _check_whole(taken, slots, where)
    dtype = types.pop()
    _add_inputs(model.graph, slots, dtype, rank)
    _add_nodes(model.graph, {p.node: p for p in taken}, slots)
    onnx.save(model, file)
    tokens = int(read_json(folder / "genai_config.json")["model"]["vocab_size"])
    contents = Slots(dtype=TYPES[dtype], tokens=tokens, modules=slots)
    (folder / NAME).write_bytes(contents.to_json())


def _named(modules: list[str], wanted: Sequence[str] | str, where: Where | None) -> set[str]:
    """Return the modules that a recipe names. Raises InputError for a name that is none's."""
    if wanted == "all-linear":
        names = set(modules)
    else:
        names = set()
        for name in wanted:
            matches = [m for m in modules if m == name or m.endswith(f".{name}")]
            if not matches:
                raise InputError(
                    f"no product of the converted model is of the module {name!r}",
                    where=where,
                    hint=f"its modules are {', '.join(_ends(modules)) or 'none'}",
                )
            names.update(matches)
    if not names:
        raise InputError(
            "no product of the converted model is of a single module's weight",
            where=where,
            hint="leave `slots` out, and merge the adapter",
        )
    return names


def _with_neighbours(products: Sequence[Product], named: Collection[str]) -> list[Product]:
    """Return the products of modules, and of all that shares a product with one of them."""
    modules = set(named)
    while True:
        taken = [p for p in products if any(piece.module in modules for piece in p.pieces)]
        everyone = {piece.module for p in taken for piece in p.pieces}
        if everyone <= modules:
            return taken
        modules |= everyone


def _check_whole(
    products: Sequence[Product], slots: Mapping[str, tuple[int, int]], where: Where | None
) -> None:
    """Raise InputError for a module of whose rows some are in no product.

    An adapter would be added to the others alone.
    """
    pieces = sorted((q.module, q.start, q.stop) for p in products for q in p.pieces)
    ends = dict.fromkeys(slots, 0)
    for module, start, stop in pieces:
        if start <= ends[module]:
            ends[module] = max(ends[module], stop)
    for module, (_, rows) in slots.items():
        if ends[module] < rows:
            raise InputError(
                f"the weight of {module} has {rows} rows, and no product of the converted model "
                f"that can have a slot holds those from {ends[module]} on",
                where=where,
                hint="name other modules in `slots`, or merge the adapter",
            )


def _ends(modules: Collection[str]) -> list[str]:
    return sorted({module.rpartition(".")[2] for module in modules})


def _in_layer(product: Product) -> bool:
    """Return whether all of a product is of layers: what embeds and the head have no slots."""
    return all(LAYER.search(piece.module) for piece in product.pieces)


def _products(
    graph: onnx.GraphProto, skeleton: Skeleton, shapes: dict[str, tuple[int, ...]]
) -> Iterator[Product]:
    """Yield the products of a graph whose weights are rows of modules' weights, as they are."""
    recipes = {s.name: skeleton.tensors[s.tensor] for s in skeleton.slots if s.tensor >= 0}
    for node in graph.node:
        recipe = recipes.get(node.input[1]) if node.op_type in PRODUCTS else None
        if recipe is None or len(recipe.view.shape) != 2:
            continue
        rows = list(_rows(recipe.view.transposed))
        pieces = tuple(Piece(name.removesuffix(".weight"), a, b) for name, a, b in rows)
        if rows and all(len(shapes[name]) == 2 for name, _, _ in rows):
            yield Product(node.name, pieces, recipe.view.shape[0], _type_of(recipe))


def _type_of(recipe: TensorRecipe) -> int:
    """Return the number format in which a product computes."""
    return FORMATS[recipe.quantised.scales if recipe.quantised else recipe.dtype]


def _rows(view: View) -> Iterator[tuple[str, int, int]]:
    """Yield (weight, first row, last row + 1) of which a view [n, k] consists; nothing for others.

    Others are such as transpose, or join weights along the other dimension.
    """
    n, k = view.shape
    node = view.of
    dense = view.strides == (k, 1) and not view.offset % k and len(node.shape) == 2
    if not dense or node.shape[1] != k:
        return
    first = view.offset // k
    if isinstance(node, Source):
        if node.weight.endswith(".weight"):
            yield node.weight, first, first + n
    elif isinstance(node, Concat) and node.dim == 0:
        yield from _cut([list(_rows(part)) for part in node.parts], first, first + n)
    elif isinstance(node, Cast) and node.part.shape == node.shape:
        yield from _cut([list(_rows(node.part))], first, first + n)


def _cut(
    parts: list[list[tuple[str, int, int]]], start: int, stop: int
) -> Iterator[tuple[str, int, int]]:
    """Yield rows `start` to `stop` of parts that lie one after the other."""
    if not all(parts):
        return
    at = 0
    for name, a, b in (rows for part in parts for rows in part):
        low, high = max(start, at), min(stop, at + b - a)
        if low < high:
            yield name, a + low - at, a + high - at
        at += b - a


def _shapes(view: View) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield each weight of a view with its shape."""
    node = view.of
    if isinstance(node, Source):
        yield node.weight, node.shape
    else:
        for part in node.parts if isinstance(node, Concat) else (node.part,):
            yield from _shapes(part)


def _add_inputs(
    graph: onnx.GraphProto, slots: dict[str, tuple[int, int]], dtype: int, rank: int
) -> None:
    """Add the two inputs of each slot, with defaults of zeros."""
    for module, (k, n) in slots.items():
        a, b = inputs_of(module)
        for name, shape, default in (
            (a, (k, f"{module}.rank"), (k, rank)),
            (b, (f"{module}.rank", n), (rank, n)),
        ):
            graph.input.append(helper.make_tensor_value_info(name, dtype, shape))
            size = helper.tensor_dtype_to_np_dtype(dtype).itemsize
            graph.initializer.append(
                helper.make_tensor(
                    name, dtype, default, bytes(size * int(np.prod(default))), raw=True
                )
            )


def _add_nodes(
    graph: onnx.GraphProto, products: dict[str, Product], slots: dict[str, tuple[int, int]]
) -> None:
    """Add x @ a @ b to what each product gives."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        product = products.get(node.name)
        if product is None:
            continue
        out, x = node.output[0], node.input[0]
        # The product itself gives way: what follows it reads the sum.
        graph.node[-1].output[0] = f"{out}/base"
        added, delta = _delta(graph, product, slots, x, out)
        graph.node.extend(added)
        graph.node.append(
            helper.make_node("Add", [f"{out}/base", delta], [out], name=f"{out}/lora/Add")
        )


def _delta(
    graph: onnx.GraphProto,
    product: Product,
    slots: dict[str, tuple[int, int]],
    x: str,
    out: str,
) -> tuple[list[onnx.NodeProto], str]:
    """Return the nodes that compute what adapters add to a product, and the name of the result."""
    nodes, results, inner = [], [], dict[str, str]()
    for i, piece in enumerate(product.pieces):
        a, b = inputs_of(piece.module)
        stem = f"{out}/lora/{i}"
        if piece.module not in inner:
            inner[piece.module] = f"{stem}/a"
            nodes.append(helper.make_node("MatMul", [x, a], [f"{stem}/a"], name=f"{stem}/a/MatMul"))
        if (piece.start, piece.stop) != (0, slots[piece.module][1]):
            bounds = (("start", piece.start), ("stop", piece.stop), ("axis", 1))
            for name, value in bounds:
                graph.initializer.append(
                    helper.make_tensor(f"{stem}/{name}", TensorProto.INT64, (1,), [value])
                )
            rows = [b, *(f"{stem}/{name}" for name, _ in bounds)]
            b = f"{stem}/rows"
            nodes.append(helper.make_node("Slice", rows, [b], name=f"{stem}/Slice"))
        nodes.append(
            helper.make_node("MatMul", [inner[piece.module], b], [stem], name=f"{stem}/MatMul")
        )
        results.append(stem)
    if len(results) == 1:
        return nodes, results[0]
    nodes.append(
        helper.make_node("Concat", results, [f"{out}/lora"], name=f"{out}/lora/Concat", axis=-1)
    )
    return nodes, f"{out}/lora"
