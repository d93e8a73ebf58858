"""Energy that the machine says it used: processor packages by RAPL, NVIDIA cards by NVML.

Of everything that runs there, idling included.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

RAPL = Path("/sys/class/powercap")


class Meter:
    """`joules()` counts from where the meter was made; None where the machine does not tell."""

    def __init__(self, root: Path = RAPL, *, gpu: bool = False) -> None:
        # Packages only: what lies below one (`intel-rapl:0:0`) is counted in it.
        self._packages = [
            p
            for p in sorted(root.glob("intel-rapl:*"))
            if p.name.count(":") == 1 and _microjoules(p) is not None
        ]
        self._last = {p: _microjoules(p) or 0 for p in self._packages}
        self._total = 0.0
        self._cards = _Cards() if gpu else None

    def joules(self) -> float | None:
        for package, before in self._last.items():
            now = _microjoules(package)
            if now is None:
                continue
            # The counter starts anew at its end.
            span = (
                now - before
                if now >= before
                else now - before + int((package / "max_energy_range_uj").read_text())
            )
            self._total += span / 1e6
            self._last[package] = now
        cards = self._cards.joules() if self._cards else None
        return None if not self._packages and cards is None else self._total + (cards or 0.0)


def _microjoules(package: Path) -> int | None:
    try:
        return int((package / "energy_uj").read_text())
    except (OSError, ValueError):
        # Since 2020 only root may read it, unless the administrator says otherwise.
        return None


class _Cards:
    """The first visible card, through NVIDIA's own library."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        self._library = None
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        is_ready = library.nvmlInit_v2() == 0 and first.isdigit()
        if (
            is_ready
            and library.nvmlDeviceGetHandleByIndex_v2(int(first), ctypes.byref(self._handle)) == 0
        ):
            self._library = library

    def joules(self) -> float | None:
        used = ctypes.c_ulonglong()
        if (
            self._library is None
            or self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(used))
            != 0
        ):
            return None
        return used.value / 1e3
