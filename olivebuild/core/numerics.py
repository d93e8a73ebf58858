"""Properties of the machine that are part of a result's meaning: stated here, and nowhere else.

Libraries choose their instructions, and so the order of additions, by the processor, the number of
threads, the kind of GPU, and by what the environment says of these. So equal inputs give equal
bytes under equal numerics. They are in no key, unless a recipe says `numerics: strict`: a laptop
restores what a larger machine has made. The trace of what was computed names them, and a build
equals a clean one under those.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from functools import cache

from olivebuild.core import host

SETTINGS = (
    # torch, oneDNN (under both of its names), MKL, OpenBLAS and numpy: which instructions of the
    # processor they take.
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_CPU_ISA_HINTS",
    "DNNL_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DYNAMIC",
    "OPENBLAS_CORETYPE",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    # The C library: which variants of its functions.
    "GLIBC_TUNABLES",
    # Threads of single libraries.
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OMP_DYNAMIC",
    # GPUs: shorter mantissas, and the order of additions.
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDNN_DETERMINISTIC",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_BLAS_PREFER_HIPBLASLT",
    "HSA_OVERRIDE_GFX_VERSION",
)
"""The variables by which libraries compute otherwise."""
THREADS = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT")
VECTORS = re.compile(
    r"s?sse\w*|avx\w*|fma4?|f16c|amx\w*|xop|3dnow(ext)?|neon|vfp\w*|asimd\w*|fphp|sve\w*|sme[0-9f]?\w*|bf16|i8mm|rvv"
)
"""The features of a processor that compute with floating-point numbers, as Linux calls them."""


def here(*, gpu: bool = False) -> dict[str, str]:
    """Return the numerics of a program that is started now on this machine.

    `gpu`: with a GPU, where there is one.
    """
    kinds = sorted(set(host.gpu_names())) if gpu else []
    facts = _processor() | ({"gpu": ", ".join(kinds)} if kinds else {"threads": threads()})
    return facts | settings()


def settings() -> dict[str, str]:
    """The variables that are set, by name."""
    return {name: value for name in SETTINGS if (value := os.environ.get(name))}


def threads() -> str:
    """Return how many threads libraries begin with, where they are not told otherwise.

    What OpenMP is told, else the processors that we may use.
    """
    for name in THREADS:
        first = os.environ.get(name, "").partition(",")[0].strip()
        if first.isdigit() and int(first):
            return str(int(first))
    return str(host.cores())


@cache
def _processor() -> dict[str, str]:
    """Return the kind of processor, what it computes with, and the C library.

    The library's functions choose among these, too.
    """
    facts = host.cpu_facts()
    kind = [
        facts[name]
        for name in ("vendor_id", "CPU implementer", "cpu family", "model", "CPU part")
        if facts.get(name)
    ]
    vectors = sorted(
        word
        for word in (facts.get("flags") or facts.get("Features", "")).split()
        if VECTORS.fullmatch(word)
    )
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        # macOS computes with a library of the system's own.
        library = f"{platform.system()} {platform.mac_ver()[0] or platform.release()}"
    name = " ".join(kind) or host.processor_name()
    return {
        "processor": f"{platform.machine()} {name}",
        "instructions": " ".join(vectors),
        "library": library,
    }


def differing(then: Mapping[str, object], now: Mapping[str, str]) -> list[str]:
    """Return the differences since a result was made, each in words: `threads 8, here 2`.

    Empty where one of the two is not known.
    """
    differences: list[str] = []
    if not then or not now:
        return differences
    for name in [*then, *(name for name in now if name not in then)]:
        before, after = str(then.get(name, "")), now.get(name, "")
        if before == after:
            continue
        if name == "instructions":
            differences += _vector_differences(set(before.split()), set(after.split()))
        else:
            differences.append(f"{name} {before or 'not set'}, here {after or 'not set'}")
    return differences


def _vector_differences(before: set[str], after: set[str]) -> list[str]:
    """Return the vector instructions that only one of two machines has, in words."""
    differences = []
    for word, names in (("without", after - before), ("with", before - after)):
        if names:
            differences.append(f"{word} {' '.join(sorted(names))}")
    return differences
