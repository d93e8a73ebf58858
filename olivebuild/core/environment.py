"""The environment of a recipe's own commands: a base that always passes, and what the recipe lists.

The base is where programs, libraries and caches lie, who runs them, in which language they speak,
how they reach the network, and what of the machine they use: what a command needs to run at all,
and what should not change what it makes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from olivebuild.core import numerics

_NAMES = (
    # Where programs and libraries are found.
    "PATH LD_LIBRARY_PATH DYLD_LIBRARY_PATH DYLD_FALLBACK_LIBRARY_PATH VIRTUAL_ENV "
    "CONDA_PREFIX CONDA_DEFAULT_ENV CUDA_HOME CUDA_PATH ROCM_PATH "
    "PYTHONPATH PYTHONHOME PYTHONNOUSERSITE PYTHONUTF8 PYTHONIOENCODING PYTHONUNBUFFERED "
    "PYTHONDONTWRITEBYTECODE PYTHONCOERCECLOCALE "
    # Who runs them, and where their own files go.
    "HOME USER LOGNAME SHELL PWD TMPDIR TEMP TMP XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME "
    "XDG_STATE_HOME XDG_RUNTIME_DIR "
    "HF_HOME HF_HUB_CACHE HF_DATASETS_CACHE HF_HUB_OFFLINE HF_HUB_DISABLE_PROGRESS_BARS "
    "TORCH_HOME TRITON_CACHE_DIR TORCHINDUCTOR_CACHE_DIR "
    # The language and the terminal.
    "LANG LANGUAGE TZ TERM COLUMNS LINES NO_COLOR TOKENIZERS_PARALLELISM "
    # The network.
    "HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy ftp_proxy "
    "all_proxy no_proxy "
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE HF_ENDPOINT "
    # Devices and threads.
    "CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES "
    "HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES "
    "ZE_AFFINITY_MASK GPU_DEVICE_ORDINAL NUMEXPR_NUM_THREADS VECLIB_MAXIMUM_THREADS "
    # What Windows can't start a program without.
    "SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT APPDATA LOCALAPPDATA PROGRAMDATA "
    "PROGRAMFILES USERPROFILE USERNAME HOMEDRIVE HOMEPATH OS "
    "NUMBER_OF_PROCESSORS PROCESSOR_ARCHITECTURE"
)
BASE = frozenset(_NAMES.split()) | {*numerics.SETTINGS, *numerics.THREADS}
FAMILIES = ("LC_", "OLIVEBUILD_", "OMP_", "KMP_")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MENTION = re.compile(r"\$(?:\{[!#]?)?([A-Za-z_][A-Za-z0-9_]*)|%([A-Za-z_][A-Za-z0-9_]*)%")
"""A variable in a shell's words, or in those of Windows."""


def is_base(name: str) -> bool:
    """Passes whatever the recipe says."""
    # Windows knows no case in names.
    return (name.upper() if os.name == "nt" else name) in BASE or name.startswith(FAMILIES)


def of_command(surrounding: Mapping[str, str], listed: Iterable[str]) -> dict[str, str]:
    """Return what a command gets of the environment that the build runs in."""
    names = {*listed}
    return {name: value for name, value in surrounding.items() if name in names or is_base(name)}


def mentioned(text: str) -> list[str]:
    return [first or second for first, second in MENTION.findall(text)]


SECRET = 8
"""A shorter value is part of too many words for its place to be told."""


def forms_of(values: Iterable[str]) -> list[bytes]:
    """Return how secrets may appear in a log: as they are, line by line, in JSON, in an address.

    The longest first.
    """
    from json import dumps
    from urllib.parse import quote

    forms = set[str]()
    for value in values:
        for text in (value, *value.splitlines()):
            forms |= {
                text,
                dumps(text)[1:-1],
                dumps(text, ensure_ascii=False)[1:-1],
                quote(text, safe=""),
                quote(text),
            }
    return sorted(
        (form.encode("utf-8", "surrogateescape") for form in forms if len(form) >= SECRET),
        key=lambda form: (-len(form), form),
    )


class Mask:
    """Replaces secrets in what comes in pieces.

    The end of a piece that may begin one waits for the next.
    """

    STARS = b"********"

    def __init__(self, values: Iterable[str]) -> None:
        self._forms = forms_of(values)
        self._find = re.compile(b"|".join(map(re.escape, self._forms))) if self._forms else None
        self._left = b""

    def __bool__(self) -> bool:
        return self._find is not None

    def feed(self, data: bytes) -> bytes:
        if self._find is None:
            return data
        data = self._left + data
        # What is certain ends before the first place from which on all that there is may be a
        # secret's beginning.
        end = next(
            (
                at
                for at in range(max(0, len(data) - len(self._forms[0]) + 1), len(data))
                if self._begins(data[at:])
            ),
            len(data),
        )
        for match in self._find.finditer(data):
            if match.start() < end < match.end():
                end = match.start()
        self._left = data[end:]
        return self._find.sub(self.STARS, data[:end])

    def _begins(self, data: bytes) -> bool:
        return any(form.startswith(data) for form in self._forms)

    def rest(self) -> bytes:
        """Return what has waited, when nothing more comes."""
        data, self._left = self._left, b""
        return self._find.sub(self.STARS, data) if self._find else data
