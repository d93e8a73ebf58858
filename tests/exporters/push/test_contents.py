"""The files of an export, held against its manifest before they are pushed."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from olivebuild.core.errors import BuildError, InputError
from olivebuild.exporters import manifest
from olivebuild.exporters.push.contents import check_there, contents_of
from tests.exporters.push.test_hub import folder_of


def test_files_have_their_digests_and_their_names_in_git(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    contents = contents_of(folder)
    assert set(contents) == {path.name for path in folder.iterdir()}
    file = contents["model.onnx.data"]
    data = (folder / "model.onnx.data").read_bytes()
    assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    words = ["git", "hash-object", "--no-filters", str(folder / "model.onnx.data")]
    told = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert file.blob == told.stdout.strip()
    check_there(folder, contents)


@pytest.mark.parametrize("what", ["README.md", "more.txt", manifest.NAME])
def test_what_is_not_as_its_manifest_says_is_not_pushed(tmp_path: Path, what: str) -> None:
    folder = folder_of(tmp_path, 1)
    contents = contents_of(folder)
    (folder / what).write_text("else")
    with pytest.raises(InputError, match=r"not what its manifest says|this is no export"):
        contents_of(folder)
    (folder / what).unlink()
    if what in contents:
        with pytest.raises(InputError):
            contents_of(folder)
        with pytest.raises(BuildError, match="was deleted while it was pushed"):
            check_there(folder, contents)
