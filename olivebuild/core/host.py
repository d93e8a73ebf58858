"""The machine at hand: processor, cores, memory, GPUs, installed libraries; without torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from itertools import takewhile

# The same library under other names: builds for other hardware.
VARIANTS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-webgpu"),
    "onnxruntime-genai": ("onnxruntime-genai-cuda", "onnxruntime-genai-directml"),
}


@cache
def gpu_names() -> tuple[str, ...]:
    """The NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves visible, by name, in its order."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    tool = shutil.which("nvidia-smi")
    if visible == "" or not tool:
        return ()
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    names = (
        [line.strip() for line in answer.stdout.splitlines() if line.strip()]
        if answer.returncode == 0
        else []
    )
    if visible is None:
        return tuple(names)
    indices = [int(i) for i in visible.split(",") if i.strip().isdigit()]
    return tuple(names[i] for i in indices if i < len(names))


def gpu_tokens() -> list[str]:
    """Return the settings of CUDA_VISIBLE_DEVICES for workers that get one GPU each.

    One token for each GPU.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(gpu_names())
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]


def resources() -> dict[str, float]:
    """Return how much there is of what targets may ask for.

    GPUs are not counted: an executor gives each action one of its own.
    """
    return {"memory": float(memory_bytes()) or float("inf"), "cores": float(cores())}


def cores() -> int:
    """Return how many processors this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1


def cpu_quota(folder: str = "/sys/fs/cgroup") -> float:
    """Return how many processors' time this process gets at most; infinity where nothing says so.

    A container's limit (`docker run --cpus`, Kubernetes), in the control group at the top of what
    it sees: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max), and of version 1.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join(_text_of(os.path.join(folder, name)) for name in names).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            # None, or `max`.
            continue
        if quota > 0 and period > 0:
            return quota / period
    return float("inf")


def memory_bytes() -> int:
    """Physical memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def cpu_facts() -> dict[str, str]:
    """Return what the system says of the first processor; nothing where it does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            # Line by line: the system writes hundreds of processors out as they are read.
            lines = dict(line.partition(":")[::2] for line in takewhile(str.strip, f))
    except OSError:
        lines = {}
    return {name.strip(): value.strip() for name, value in lines.items()}


def processor() -> list[str]:
    """Return what decides which instructions run: name and features of the processor."""
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features")
    facts = cpu_facts()
    return [processor_name(), platform.machine(), *(facts.get(name, "") for name in wanted)]


def available_memory() -> int:
    """Return what new processes can get without swapping.

    All physical memory where the system does not tell.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            return next(
                int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable:")
            )
    except (OSError, StopIteration):
        return memory_bytes()


def processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            return next(
                line.partition(":")[2].strip() for line in f if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe() -> dict[str, str]:
    """Return what a latency belongs to."""
    return {
        "processor": processor_name(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory_bytes() / 2**30:.0f} GiB",
        "gpu": ", ".join(gpu_names()) or "none",
    }


def timing_facts() -> dict[str, str]:
    """Return what the key of a measurement holds of the machine.

    Of `describe()` all but the memory, which virtual machines are given more of as they use it;
    the processors that this process may use, where they are not all, and the GPUs' driver.
    """
    machine = {name: fact for name, fact in describe().items() if name != "memory"}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = {} if usable == os.cpu_count() else {"usable cores": str(usable)}
    return machine | cores | ({"driver": driver} if (driver := gpu_driver()) else {})


@cache
def compute_capabilities() -> tuple[tuple[int, int], ...]:
    """Return the compute capabilities that the NVIDIA driver tells, (8, 9) for example.

    Of all GPUs that the driver has, visible or not; none where it does not tell.
    """
    if not gpu_names():
        return ()
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = answer.stdout.split() if answer.returncode == 0 else []
    pairs = (line.partition(".")[::2] for line in lines)
    return tuple((int(a), int(b)) for a, b in pairs if a.isdigit() and b.isdigit())


@cache
def gpu_driver() -> str:
    """Return the version of the NVIDIA driver; "" where no GPU is visible."""
    if not gpu_names():
        return ""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.partition("\n")[0].strip() if answer.returncode == 0 else ""


def physical_cores() -> int:
    """Return the number of threads that ONNX Runtime takes unless told otherwise.

    The cores that this process may use where the system does not tell.
    """
    allowed = (
        os.sched_getaffinity(0)
        if hasattr(os, "sched_getaffinity")
        else set(range(os.cpu_count() or 1))
    )
    siblings = {
        f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list" for core in allowed
    }
    try:
        return len({_text_of(file) for file in siblings})
    except OSError:
        return len(allowed)


def _text_of(file: str) -> str:
    with open(file, encoding="ascii") as f:
        return f.read()


def version(name: str) -> str:
    """The version of a distribution. Raises ModuleNotFoundError."""
    # Slow to import, and only some kinds have libraries.
    from importlib import metadata

    return metadata.version(name)


def installed(name: str) -> str | None:
    """The public version of an installed library (no `+cpu`); None when it is not installed."""
    for candidate in (name, *VARIANTS.get(name, ())):
        try:
            return version(candidate).partition("+")[0]
        except ModuleNotFoundError:
            continue
    return None


def peak_rss() -> int:
    """The peak resident memory of this process in bytes; 0 where the system does not tell."""
    try:
        # What getrusage tells starts with the size of the process that started this one.
        with open("/proc/self/status", encoding="ascii", errors="replace") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
