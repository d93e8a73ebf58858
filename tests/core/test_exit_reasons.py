"""Errors that stand for a lack of memory, or of space on the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from olivebuild.core.exit_reasons import lacks_memory, lacks_space


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("bad shape"), False),
        (OSError(errno.ENOSPC, "No room"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert lacks_memory(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EIO, "input/output error"), False),
    ],
)
def test_a_full_disk_is_told_from_other_errors(
    tmp_path: Path, error: Exception, expected: bool
) -> None:
    assert lacks_space(error, tmp_path) is expected


def test_a_folder_that_is_gone_is_no_full_disk(tmp_path: Path) -> None:
    assert not lacks_space(RuntimeError("bad shape"), tmp_path / "gone")
