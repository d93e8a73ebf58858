"""Gated models of the hub: read by the token of the environment or of a login, which is written
nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Place
from tests.support.hub import serving

pytestmark = pytest.mark.scenario
TOKEN = "hf_aTokenOfThisTest"


@pytest.fixture
def gated(place: Place, tiny_model: Path, tmp_path: Path) -> Iterator[Place]:
    """A recipe of one model, which is gated."""
    place.recipe.write_text('targets:\n  base: {kind: model, source: "hf:own/tiny"}\n')
    with serving(tiny_model, TOKEN) as (address, _):
        place.environment |= {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
        }
        yield place


@pytest.mark.parametrize("by", ["environment", "login"])
def test_a_token_opens_it_and_is_written_nowhere(gated: Place, tmp_path: Path, by: str) -> None:
    if by == "environment":
        gated.environment["HF_TOKEN"] = TOKEN
    else:
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf/token").write_text(TOKEN)
    done = gated.build()
    assert done.ran == ["base"]
    assert TOKEN not in done.out + done.err
    written = [p for folder in (gated.folder, gated.cache) for p in folder.rglob("*")]
    files = [p for p in written if p.is_file()]
    assert len(files) > 5
    assert not any(TOKEN.encode() in p.read_bytes() for p in files)


@pytest.mark.parametrize(
    ("token", "who"), [("", "who is not signed in"), ("hf_another", "the account that you are")]
)
def test_who_may_not_read_it_is_told_what_to_do(gated: Place, token: str, who: str) -> None:
    if token:
        gated.environment["HF_TOKEN"] = token
    done = gated.build()
    assert done.code == 1
    assert f"error: hf:own/tiny is gated, and {who}" in done.err
    assert "olivebuild.yaml:2:" in done.err
    assert "ask for access on the page of own/tiny; `hf auth login`" in done.err
    assert "Traceback" not in done.err
    assert "hf_another" not in done.err + done.out


def test_a_repository_that_is_not_there_may_be_private(gated: Place) -> None:
    gated.edit("own/tiny", "own/other")
    done = gated.build()
    assert done.code == 1
    assert "hf:own/other" in done.err
    assert "is not there, or is private" in done.err
