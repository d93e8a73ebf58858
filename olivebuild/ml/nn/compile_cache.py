"""The folder in which torch's compiler keeps what it has compiled, from one training to the next.

Its own default is a folder of a known name in the system's for temporary files, which any user may
make first, and which is lost when the machine starts.

https://docs.pytorch.org/tutorials/recipes/torch_compile_caching_tutorial.html
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from olivebuild.cache import compiled
from olivebuild.core import hashing
from olivebuild.core.host import installed

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
REMOTE = (
    ("torch._inductor.config", "fx_graph_remote_cache"),
    ("torch._inductor.config", "autotune_remote_cache"),
    ("torch._inductor.config", "bundled_autotune_remote_cache"),
    ("torch._functorch.config", "enable_remote_autograd_cache"),
)
"""Caches on other machines, which nothing is to come from: (module, setting)."""


def keep_compiled(note: Callable[[str], None], scratch: Path, device: torch.device) -> None:
    """Let torch's compiler keep its results in the user's cache, or else in `scratch`.

    A folder that the user has named stays.
    """
    import torch._functorch.config
    import torch._inductor.config

    for module, name in REMOTE:
        config = torch._inductor.config if "_inductor" in module else torch._functorch.config
        if hasattr(config, name):
            setattr(config, name, False)
    # LoRA's product is a function with a gradient of its own. The compiler traces both, so that
    # its keys hold what they compute.
    setting = "autograd_cache_allow_custom_autograd_functions"
    if hasattr(torch._functorch.config, setting):
        setattr(torch._functorch.config, setting, True)
    if os.environ.get(VARIABLE) not in (None, _default()):
        return
    try:
        folder = compiled.take(key(device))
    except (compiled.Untrusted, OSError) as e:
        note(f"compiled layers are not kept: {e}")
        folder = scratch
    os.environ[VARIABLE] = str(folder)


def _default() -> str:
    """Return the folder that the compiler chooses, and names in the environment, by itself."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return str(default_cache_dir())


def key(device: torch.device) -> str:
    """Return a digest of all that decides what is compiled, besides what the compiler's keys hold.

    Versions, the device, and the code that is compiled.
    """
    code = [hashing.of_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    versions: list[Any] = [torch.__version__, torch.version.cuda, installed("triton")]
    versions += [installed("transformers"), installed("peft"), platform.python_version()]
    machine: list[Any] = [platform.machine(), device.type]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine += [properties.name, properties.major, properties.minor]
    return hashing.of_json(["compiled", versions, machine, code])
