"""report, history and compare from the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from olivebuild.cli.results import write
from tests.conftest import Place

RECIPE = """\
targets:
  a: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
"""


def test_a_page_is_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    write(tmp_path / "new/page.html", "ä\n")
    write(tmp_path / "new/page.html", "ö\n")
    assert (tmp_path / "new/page.html").read_bytes() == "ö\n".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs pipes, links and /dev/full")
def test_links_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/page.html")
    for _ in range(2):
        write(tmp_path / "link", "text\n")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["page.html"]
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(tmp_path / "pipe", "text\n")
        assert os.read(reading, 9) == b"text\n"
    finally:
        os.close(reading)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(OSError, match="No space left"):
        write(Path("/dev/full"), "text\n")
    assert Path("/dev/full").is_char_device()


def test_the_builds_are_listed_and_reported(place: Place) -> None:
    place.recipe.write_text(RECIPE)
    (place.folder / "in.txt").write_text("1")
    assert json.loads(place.run("history", "--json").out) == {"builds": []}
    assert place.build().ran == ["a"]
    (place.folder / "in.txt").write_text("2")
    assert place.build().ran == ["a"]
    builds = json.loads(place.run("history", "--json", "-n", "1").out)["builds"]
    assert [[made["target"] for made in build["made"]] for build in builds] == [["a"]]
    assert place.run("report", "--out", "page.html").out == "wrote page.html\n"
    assert (place.folder / "page.html").read_text("utf-8").startswith("<!doctype html>")
    done = place.run("compare", "a", "b")
    assert (done.code, "error: " in done.err) == (2, True)
