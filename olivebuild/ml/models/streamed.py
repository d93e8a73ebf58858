"""Weights on their way to a GPU while the libraries that will hold them are still imported.

transformers maps a file, copies each tensor to the processor's memory and then to the card, which
begins when all is imported. Here threads read each tensor into pinned memory and the card takes it
from there, from the moment torch itself is there. What transformers does with tensors (renaming,
fusing, checking) it still does: in the place of `safe_open` it gets what has arrived.

https://docs.pytorch.org/docs/stable/notes/cuda.html#use-pinned-memory-buffers
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from olivebuild.core.errors import BuildError
from olivebuild.core.fs.opening import open_handle
from olivebuild.formats.safetensors import Tensor, tensors_of
from olivebuild.formats.weight_files import weight_files

PIECE = 32 << 20
"""Bytes that are read and copied together."""
READERS = 4
"""Threads that read: one alone reads slower than a card takes."""
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

_begun: dict[str, Future[Streamed]] = {}
"""Folder -> its weights, of those that were begun before they are loaded."""


class Streamed:
    """Tensors of a folder's weight files, on a device."""

    def __init__(self, files: dict[str, dict[str, Any]]) -> None:
        self._files = files

    @contextmanager
    def in_place_of_files(self) -> Iterator[None]:
        """Give transformers these tensors where it would open the files."""
        import transformers.modeling_utils

        modeling_utils: Any = transformers.modeling_utils
        before = modeling_utils.safe_open

        def opened(file: Any, *words: Any, **options: Any) -> Any:
            tensors = self._files.get(os.path.realpath(file))
            return before(file, *words, **options) if tensors is None else _Arrived(tensors)

        modeling_utils.safe_open = opened
        try:
            yield
        finally:
            modeling_utils.safe_open = before
            self._files.clear()


class _Arrived:
    """A file of tensors that lie in memory, with what is asked of safetensors' `safe_open`."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self._tensors = tensors

    def __enter__(self) -> _Arrived:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is no file to close."""

    def keys(self) -> list[str]:
        return list(self._tensors)

    def metadata(self) -> dict[str, str]:
        return {"format": "pt"}

    def get_slice(self, name: str) -> Any:
        return self._tensors[name]

    def get_tensor(self, name: str) -> Any:
        return self._tensors[name]


def begin(folder: str | Path, dtype: str) -> None:
    """Start to stream a folder's weights to the GPU that this process sees, if it sees one.

    `dtype` is the one to compute in, by torch's name, or "auto". Nothing is raised: what can't be
    streamed is loaded as ever.
    """
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        return
    future: Future[Streamed] = Future()
    _begun[str(folder)] = future
    # A daemon, since an error elsewhere ends the process before the weights are there.
    threading.Thread(target=_begin, args=(folder, dtype, future), daemon=True).start()


def _begin(folder: str | Path, dtype: str, future: Future[Streamed]) -> None:
    try:
        import torch

        if not torch.cuda.is_available():
            raise Unstreamed("there is no GPU")
        if dtype == "auto":
            dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
        check_dtype(folder, getattr(torch, dtype))
        future.set_result(stream(folder, torch.device("cuda")))
    except BaseException as e:  # noqa: BLE001
        # The loading waits for it, and does without.
        future.set_exception(e)


class Unstreamed(Exception):
    """Weights that are loaded in the usual way; the text says why."""


def taken(folder: str | Path, dtype: Any, device: Any) -> Streamed:
    """Return a folder's weights on a GPU: those that were begun, or else from now on.

    Raises Unstreamed.
    """
    if device.type != "cuda":
        raise Unstreamed("there is no GPU")
    check_dtype(folder, dtype)
    future = _begun.pop(str(folder), None)
    try:
        return future.result() if future else stream(folder, device)
    except (OSError, RuntimeError, BuildError) as e:
        raise Unstreamed(str(e)) from e


def check_dtype(folder: str | Path, dtype: Any) -> None:
    """Raise Unstreamed for weights that would be changed on the card, and lie there twice."""
    for name in weight_files(Path(folder)).names:
        for tensor in tensors_of(Path(folder, name)):
            if f"torch.{TORCH_NAMES.get(tensor.dtype)}" != str(dtype):
                raise Unstreamed(f"{tensor.name} is {tensor.dtype}, and {dtype} is computed in")


def stream(folder: str | Path, device: Any) -> Streamed:
    """Read a folder's weights to a device. Raises OSError, RuntimeError, InputError, Unstreamed."""
    import torch

    if not hasattr(os, "preadv"):
        raise Unstreamed("this system reads no file into memory that is there")
    files: dict[str, dict[str, Any]] = {}
    work: list[tuple[Path, Tensor, Any]] = []
    for name in weight_files(Path(folder)).names:
        file = Path(folder, name)
        tensors = files.setdefault(os.path.realpath(file), {})
        for one in tensors_of(file):
            if one.dtype not in TORCH_NAMES:
                raise Unstreamed(f"{one.name} is {one.dtype}")
            # Each in memory of its own, so that it begins where kernels like it to.
            dtype = getattr(torch, TORCH_NAMES[one.dtype])
            tensors[one.name] = torch.empty(one.shape, dtype=dtype, device=device)
            work.append((file, one, tensors[one.name]))
    local = threading.local()
    with ThreadPoolExecutor(READERS) as pool:
        for done in [pool.submit(_copy, local, *item) for item in work]:
            done.result()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Streamed(files)


def _copy(local: Any, file: Path, place: Tensor, tensor: Any) -> None:
    """Copy a tensor from a file to where `tensor` lies, through this thread's two buffers."""
    import torch

    if not hasattr(local, "buffers"):
        local.buffers = [_Buffer(tensor.device) for _ in range(2)]
    target = tensor.view(-1).view(torch.uint8) if tensor.numel() else None
    handle = open_handle(file)
    try:
        for number, start in enumerate(range(place.start, place.end, PIECE)):
            size = min(PIECE, place.end - start)
            buffer = local.buffers[number % 2]
            buffer.read(handle, start, size)
            assert target is not None
            buffer.copy_to(target[start - place.start :][:size])
    finally:
        os.close(handle)


class _Buffer:
    """Memory that a card takes from by itself, and the copy that is under way from it."""

    def __init__(self, device: Any) -> None:
        import torch

        cuda = device.type == "cuda"
        self._memory = torch.empty(PIECE, dtype=torch.uint8, pin_memory=cuda)
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._event = torch.cuda.Event() if cuda else None

    def read(self, handle: int, start: int, size: int) -> None:
        """Fill the memory from a file, once the copy from it is done. Raises OSError."""
        if self._event:
            self._event.synchronize()
        view = memoryview(self._memory.numpy())
        done = 0
        while done < size:
            count = os.preadv(handle, [view[done:size]], start + done)
            if not count:
                raise OSError("the file ends early")
            done += count
        self._size = size

    def copy_to(self, target: Any) -> None:
        import torch

        if self._stream is None:
            target.copy_(self._memory[: self._size])
            return
        with torch.cuda.stream(self._stream):
            target.copy_(self._memory[: self._size], non_blocking=True)
            assert self._event
            self._event.record(self._stream)
