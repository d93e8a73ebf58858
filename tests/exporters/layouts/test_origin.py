"""Copies of a target's files, checked against what was exported."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from olivebuild.core.errors import InputError
from olivebuild.engine.provenance.lineage import DigestedFile
from olivebuild.exporters.layouts.origin import copy
from olivebuild.exporters.manifest import sha256_of


def test_files_are_copied_to_their_places(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    file = tmp_path / "build/model.data"
    file.write_bytes(b"weights")
    told = DigestedFile(name="model.data", sha256=sha256_of(file), size=7)
    runs = {"model.data": (("a" * 32, 7),)}
    origin = mock.Mock(folder=tmp_path / "build", runs=runs)
    origin.lineage.files = (told,)
    out = copy(origin, tmp_path / "out", lambda file: f"model/{file.name}")
    assert out == {"model/model.data": runs["model.data"]}
    assert (tmp_path / "out/model/model.data").read_bytes() == b"weights"
    file.write_bytes(b"others!")
    with pytest.raises(InputError, match=r"model\.data changed while it was exported"):
        copy(origin, tmp_path / "again")
