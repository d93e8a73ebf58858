"""Compiled layers are kept from one process to the next, under all that decides them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.require import require

torch = pytest.importorskip("torch")

from olivebuild.ml.nn import compile_cache  # noqa: E402

COMPILE = """
import sys
from pathlib import Path
import torch
from olivebuild.ml.nn.compile_cache import keep_compiled
keep_compiled(print, Path(sys.argv[1]), torch.device("cpu"))
if len(sys.argv) > 2:
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    sys.exit(print(cache_dir()))
x = torch.ones(64, requires_grad=True)
torch.compile(lambda x: (x.sin() * 2 + 1).sum())(x).backward()
from torch._dynamo.utils import counters
print(counters["inductor"]["fxgraph_cache_hit"], counters["aot_autograd"]["autograd_cache_hit"])
"""


def compiled_in(root: Path, scratch: Path, *options: str) -> str:
    """Compile a function in a process of its own; return what it prints.

    `--where` compiles none, and prints the folder that the compiler takes.
    """
    environment = os.environ | {"OLIVEBUILD_COMPILED": str(root)}
    environment.pop(compile_cache.VARIABLE, None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(scratch), *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.scenario
def test_what_one_process_compiled_another_need_not(tmp_path: Path) -> None:
    require("gcc", shutil.which("g++"), "needs g++")
    root, scratch = tmp_path / "own", tmp_path / "scratch"
    assert compiled_in(root, scratch) == "0 0\n"
    (folder,) = root.iterdir()
    assert folder.name == compile_cache.key(torch.device("cpu"))
    assert [path for path in folder.rglob("*") if path.is_file()] != []
    assert compiled_in(root, scratch).split()[1] == "1"
    assert not scratch.exists()
    # Open to others, it is not believed.
    root.chmod(0o755)
    said = compiled_in(root, scratch, "--where")
    assert said == f"compiled layers are not kept: {root} is open to other users\n{scratch}\n"


def test_a_folder_that_the_user_names_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEBUILD_COMPILED", str(tmp_path / "own"))
    monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / "named"))
    compile_cache.keep_compiled(print, tmp_path / "scratch", torch.device("cpu"))
    assert os.environ[compile_cache.VARIABLE] == str(tmp_path / "named")
    assert not (tmp_path / "own").exists()


def test_another_version_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compile_cache.key(torch.device("cpu"))
    assert compile_cache.key(torch.device("cpu")) == before
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert compile_cache.key(torch.device("cpu")) != before
