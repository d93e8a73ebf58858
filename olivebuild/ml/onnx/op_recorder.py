"""A watch over torch's operations, recording how tensors come from a model's weights.

https://docs.pytorch.org/docs/stable/notes/extending.html#extending-torch-native-api
(TorchDispatchMode)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from olivebuild.ml.onnx.skeleton import Add, Cast, Concat, Dtype, Source, View
from olivebuild.ml.weights.errors import NotProvenEqual

DTYPES: dict[torch.dtype, Dtype] = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
}
TORCH: dict[Dtype, torch.dtype] = {name: dtype for dtype, name in DTYPES.items()}
Node = Source | Concat | Add | Cast


EXPRESSED = (
    "aten.cat.default",
    "aten._to_copy.default",
    "aten.clone.default",
    "aten.add.Tensor",
    "aten.add.Scalar",
)
"""Operations that recipes can express."""
SMALL = 1 << 16
"""Bytes below which a result is computed: it costs nothing, and may be stored as a constant."""


class OpRecorder(TorchDispatchMode):
    """A dispatch mode that keeps a node for each storage that came from the weights.

    What a recipe can express is not computed: the result is *hollow*, memory that nobody has
    touched. It is filled when another operation, or something outside of torch, reads it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[int, Node | str] = {}
        """Address of a storage -> its content, or the reason why that is not known."""
        self._kept: list[torch.Tensor] = []
        """A storage that is let go of may be given to another tensor."""
        self._hollow: dict[int, tuple[torch.Tensor, Any, Any, Any]] = {}
        """Address of a hollow storage -> the tensor, and the operation, with its arguments."""
        self.leak = ""
        """The operation by which the program came to depend on values of weights, if any."""

    def know(self, tensor: torch.Tensor, node: Node | str) -> None:
        """Record where a tensor's storage comes from."""
        self._nodes[_address(tensor)] = node
        self._kept.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [t for t in _tensors((args, kwargs)) if self.knows(t)]
        if not inputs:
            return func(*args, **kwargs)
        if (hollow := self._hollow_result(func, args, kwargs)) is not None:
            return hollow
        if not _is_view(func):
            for tensor in inputs:
                self.fill(tensor)
        out = func(*args, **kwargs)
        if func.__name__.startswith("_local_scalar_dense") and any(
            self.node(t) != "count_nonzero" for t in inputs
        ):
            self.leak = f"the builder reads values of weights ({self.node(inputs[0])})"
        for result in _tensors(out):
            if not self.knows(result) or func._schema.is_mutable:
                self.know(result, self._describe(func, args, kwargs, result))
        return out

    def _hollow_result(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor | None:
        """Return the hollow result of an operation that recipes can express; None for others."""
        if str(func) not in EXPRESSED or str(kwargs.get("device") or "cpu") != "cpu":
            return None
        shape = func(*_as_meta(args), **_as_meta(_elsewhere(kwargs)))
        if shape.nbytes < SMALL:
            return None
        out = torch.empty(0, dtype=shape.dtype).set_(
            torch.UntypedStorage(shape.untyped_storage().nbytes()), 0, shape.shape, shape.stride()
        )
        node = self._describe(func, args, kwargs, out)
        if isinstance(node, str):
            return None
        self.know(out, node)
        self._hollow[_address(out)] = (out, func, args, kwargs)
        return out

    def is_hollow(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor's storage was never filled."""
        return self.knows(tensor) and _address(tensor) in self._hollow

    def fill(self, tensor: torch.Tensor) -> None:
        """Compute what a tensor's storage holds, if it is hollow."""
        if not self.is_hollow(tensor):
            return
        out, func, args, kwargs = self._hollow.pop(_address(tensor))
        for part in _tensors((args, kwargs)):
            self.fill(part)
        with torch.no_grad(), torch._C.DisableTorchFunction(), _disable_current_modes():
            out.copy_(func(*args, **kwargs))

    def knows(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor's storage came from the weights."""
        return (
            tensor.device.type == "cpu"
            and tensor.layout == torch.strided
            and _address(tensor) in self._nodes
        )

    def node(self, tensor: torch.Tensor) -> Node | str:
        """Return the content of a known tensor's storage."""
        return self._nodes[_address(tensor)]

    def _describe(self, func: Any, args: Any, kwargs: Any, result: torch.Tensor) -> Node | str:
        """Return the node of an operation's result, or the reason why there is none."""
        name = str(func)
        if name == "aten.count_nonzero.default":
            if not self._is_whole_bias(args[0]):
                self.leak = "the builder counts in more than whole biases"
            return "count_nonzero"
        if name.startswith("aten.gt") and self.node(args[0]) == "count_nonzero":
            return "count_nonzero"
        dtype = DTYPES.get(result.dtype)
        if dtype is None or not result.is_contiguous() or result.storage_offset():
            return f"{name} gives a tensor that is not plain"
        try:
            node = self._computed(name, args, kwargs, dtype, tuple(result.shape))
        except NotProvenEqual as e:
            return str(e)
        return node or f"the builder computes with {name}"

    def _computed(
        self, name: str, args: Any, kwargs: Any, dtype: Dtype, shape: tuple[int, ...]
    ) -> Node | None:
        """Return the node of a result that recipes can express. Raises NotProvenEqual."""
        if name == "aten.cat.default":
            dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % len(shape)
            return Concat(tuple(self.view(t) for t in args[0]), dim, dtype, shape)
        if name in ("aten._to_copy.default", "aten.clone.default"):
            return Cast(self.view(args[0]), dtype, shape)
        is_add = name in ("aten.add.Tensor", "aten.add.Scalar") and not kwargs and len(args) == 2
        if is_add and isinstance(args[1], int | float):
            return Add(self.view(args[0]), float(args[1]), dtype, shape)
        return None

    def _is_whole_bias(self, tensor: torch.Tensor) -> bool:
        """Return whether `Weights.structure` says if the tensor is all zero."""
        node = self.node(tensor)
        return (
            isinstance(node, Source)
            and node.weight.endswith("bias")
            and tuple(tensor.shape) == node.shape
            and len(node.shape) == 1
        )

    def view(self, tensor: torch.Tensor) -> View:
        """Return a tensor as a view of its storage's content.

        Raises NotProvenEqual when it is not known how the tensor came about.
        """
        node = self.node(tensor) if self.knows(tensor) else "a tensor of unknown origin"
        if isinstance(node, str):
            raise NotProvenEqual(node)
        if DTYPES.get(tensor.dtype) != node.dtype:
            raise NotProvenEqual("a tensor is looked at as another type")
        return View(node, int(tensor.storage_offset()), tuple(tensor.shape), tuple(tensor.stride()))


class Escapes(TorchFunctionMode):
    """A mode that fills a hollow tensor before something outside of torch reads it."""

    def __init__(self, recorder: OpRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READERS and args:
            self._recorder.fill(args[0])
        return func(*args, **(kwargs or {}))


READERS = ("numpy", "__array__", "tolist", "data_ptr", "__dlpack__", "__reduce_ex__")
"""Methods of tensors that hand out their memory, past any dispatch."""


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)]


def _as_meta(tree: Any) -> Any:
    """Return arguments with tensors of the same shapes and strides that have no memory."""

    def bare(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    return torch.utils._pytree.tree_map_only(torch.Tensor, bare, tree)


def _elsewhere(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments for a computation on torch's meta device."""
    return kwargs | {"device": torch.device("meta")} if kwargs.get("device") else kwargs


def _is_view(func: Any) -> bool:
    """Return whether an operation reads no memory: all its results lie in its arguments'."""
    schema = func._schema
    return not schema.is_mutable and all(r.alias_info is not None for r in schema.returns)
