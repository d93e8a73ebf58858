"""What `serve` is told, and what it refuses before anything is built."""

from __future__ import annotations

import socket
import sys

import pytest

from olivebuild.cli.inference import serve
from olivebuild.core.errors import RecipeError
from tests.conftest import Place

RECIPE = """\
targets:
  base: {kind: model, source: nowhere}
  tone: {kind: dataset, source: a.jsonl, prompt: "Q: {phrase}\\n", completion: "{tone}"}
  adapter: {kind: adapter, model: base, data: tone}
"""


@pytest.fixture
def recipe(place: Place) -> Place:
    place.recipe.write_text(RECIPE)
    return place


def test_other_machines_need_a_key() -> None:
    assert serve._checked("localhost", None) == "127.0.0.1"
    assert serve._checked("::1", None) == "::1"
    assert serve._checked("0.0.0.0", "sesame") == "0.0.0.0"
    for host in ("0.0.0.0", "::", "192.168.0.1", "fe80::1"):
        with pytest.raises(RecipeError, match="no key"):
            serve._checked(host, None)
    for name in ("box", "", "localhost.evil.example", "127.0.0.1:80"):
        with pytest.raises(RecipeError, match="no address"):
            serve._checked(name, "sesame")
    for key in ("", "a b", "é", "a\n"):
        with pytest.raises(RecipeError, match="no key"):
            serve._checked("127.0.0.1", key)


def test_a_port_in_use_is_told_before_a_build(recipe: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = recipe.run("serve", "adapter", "--port", str(port))
    assert (done.code, done.out) == (1, "")
    assert f"port {port} of 127.0.0.1 is in use" in done.err


def test_a_key_may_come_from_the_environment(recipe: Place) -> None:
    done = recipe.run("serve", "adapter", "--host", "0.0.0.0")
    assert done.code == 2
    assert "OLIVEBUILD_API_KEY" in done.err
    recipe.environment["OLIVEBUILD_API_KEY"] = "two words"
    done = recipe.run("serve", "adapter", "--host", "0.0.0.0")
    assert "this is no key" in done.err
    assert "two words" not in done.err


def test_what_can_not_be_served_is_told(recipe: Place) -> None:
    done = recipe.run("serve", "tone")
    assert (done.code, "can't be asked" in done.err) == (2, True)
    done = recipe.run("serve")
    assert (done.code, "name the model to serve" in done.err) == (2, True)
    recipe.edit("adapter:", "serve:")
    done = recipe.run("serve")
    assert "olivebuild build serve" in done.err


def test_a_library_that_is_not_there_is_named(
    recipe: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    for name in [name for name in sys.modules if name.startswith("olivebuild.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.chdir(recipe.folder)
    result = CliRunner().invoke(serve.serve, ["adapter"])
    assert isinstance(result.exception, RecipeError)
    assert "uvicorn" in result.exception.fact
    assert "olivebuild[serve]" in result.exception.hint
