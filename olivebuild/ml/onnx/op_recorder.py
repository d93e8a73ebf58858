"""A watch over torch's operations, recording how tensors come from a model's weights.

https://docs.pytorch.org/docs/stable/notes/extending.html#extending-torch-native-api
(TorchDispatchMode)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from olivebuild.ml.onnx.skeleton import Add, Cast, Concat, Dtype, Source, View
from olivebuild.ml.weights.errors import NotProvenEqual

DTYPES: dict[torch.dtype, Dtype] = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
}
Node = Source | Concat | Add | Cast


class OpRecorder(TorchDispatchMode):
    """A dispatch mode that keeps a node for each storage that came from the weights."""

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[int, Node | str] = {}
        """Address of a storage -> its content, or the reason why that is not known."""
        self._kept: list[torch.Tensor] = []
        """A storage that is let go of may be given to another tensor."""
        self.leak = ""
        """The operation by which the program came to depend on values of weights, if any."""

    def know(self, tensor: torch.Tensor, node: Node | str) -> None:
        """Record where a tensor's storage comes from."""
        self._nodes[tensor.untyped_storage().data_ptr()] = node
        self._kept.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [
            t
            for t in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(t, torch.Tensor) and self.knows(t)
        ]
        name = func.__name__
        if not inputs:
            return out
        if name.startswith("_local_scalar_dense") and any(
            self.node(t) != "count_nonzero" for t in inputs
        ):
            self.leak = f"the builder reads values of weights ({self.node(inputs[0])})"
        for result in torch.utils._pytree.tree_leaves(out):
            if not isinstance(result, torch.Tensor):
                continue
            if not self.knows(result) or func._schema.is_mutable:
                self.know(result, self._describe(func, args, kwargs or {}, result))
        return out

    def knows(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor's storage came from the weights."""
        return (
            tensor.device.type == "cpu"
            and tensor.layout == torch.strided
            and tensor.untyped_storage().data_ptr() in self._nodes
        )

    def node(self, tensor: torch.Tensor) -> Node | str:
        """Return the content of a known tensor's storage."""
        return self._nodes[tensor.untyped_storage().data_ptr()]

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
