"""The example apps: each answers from an exported folder alone, as the graph does when it is read
token by token.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Place
from tests.support import browser
from tests.support.require import require
from tests.support.web_pages import node_modules, site

APPS = Path(__file__).parents[2] / "examples/apps"
QUESTION = 'I am "glad" about my \\phone\ntoday, wörter'
WEB = "  onnx-web: {kind: onnx, model: merged, precision: int4, provider: webgpu, block_size: 32"
LIMIT = 64
"""The most tokens of an answer."""
TIE = 1e-2
"""A lead of the best token over the next, over the logits' deviation, that rounding could take."""
STATUS = "document.querySelector('p').textContent"
pytestmark = pytest.mark.scenario


@dataclass(kw_only=True)
class Answer:
    """What a model answers, token by token."""

    tokens: list[int]
    sure: int
    """How many of the first tokens are no ties."""

    def begins(self, text: str, decode: Callable[[list[int]], str]) -> bool:
        """Return whether a text is this answer, as far as that is sure."""
        if text == decode(self.tokens):
            return True
        # A token may be a part of a character.
        beginning = decode(self.tokens[: self.sure]).rstrip("\ufffd")
        return self.sure < len(self.tokens) and text.startswith(beginning)


def by_transformers(folder: Path) -> Callable[[list[int]], str]:
    """Return what decodes all tokens at once, as the page does."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True))


def by_genai(folder: Path) -> Callable[[list[int]], str]:
    """Return what decodes token by token: it leaves bytes out that are no character."""
    import onnxruntime_genai as og

    tokenizer = og.Tokenizer(og.Model(str(folder)))

    def decode(tokens: list[int]) -> str:
        stream = tokenizer.create_stream()
        return "".join(stream.decode(token) for token in tokens)

    return decode


def read_by_hand(folder: Path, question: str) -> Answer:
    """Read an int4 graph with onnxruntime, greedily, to the end of an answer."""
    import onnxruntime as ort
    from transformers import AutoTokenizer

    config = json.loads((folder / "genai_config.json").read_text())["model"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": question}]
    new = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, tokenize=True
    )
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    past: dict[str, Any] = {
        name.name: np.zeros(
            (1, config["decoder"]["num_key_value_heads"], 0, config["decoder"]["head_size"]),
            np.float16 if "float16" in name.type else np.float32,
        )
        for name in session.get_inputs()
        if name.name.startswith("past")
    }
    outputs = [output.name for output in session.get_outputs()]
    length, sure = 0, LIMIT
    tokens: list[int] = []
    while len(tokens) < LIMIT:
        length += len(new)
        feeds = {
            "input_ids": np.array([new], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
        }
        made = dict(zip(outputs, session.run(outputs, feeds | past), strict=True))
        past = {name: made[name.replace("past_key_values", "present")] for name in past}
        logits = made["logits"][0, -1].astype(np.float32)
        second, best = np.sort(logits)[-2:]
        if best - second < TIE * logits.std():
            sure = min(sure, len(tokens))
        new = [int(logits.argmax())]
        if new[0] in config["eos_token_id"]:
            break
        tokens += new
    return Answer(tokens=tokens, sure=sure)


def ends_early(folder: Path, answer: Answer) -> Answer:
    """Make a later token of an answer an end; return what comes before it."""
    file = folder / "genai_config.json"
    config = json.loads(file.read_text())
    tokens = answer.tokens
    last = next(i for i in range(10, len(tokens)) if tokens[i] not in tokens[:i])
    config["model"]["eos_token_id"].append(tokens[last])
    file.write_text(json.dumps(config))
    return Answer(tokens=tokens[:last], sure=min(answer.sure, last))


@pytest.fixture
def exported(copied: Place, tmp_path: Path) -> Path:
    """The model for a processor, exported; recipe and cache are gone."""
    done = copied.run("export", "onnx-int4", str(tmp_path / "shipped"))
    assert done.code == 0, done.err
    shutil.rmtree(copied.folder)
    return tmp_path / "shipped"


@dataclass(kw_only=True)
class Native:
    """A compiled app, and where onnxruntime is for it."""

    program: Path
    environment: dict[str, str]


@pytest.fixture
def native(tmp_path: Path) -> Native:
    """The app in C++, compiled against the library of onnxruntime-genai's package."""
    compiler = shutil.which("g++")
    require("g++", compiler, "needs g++")
    packages = Path(str(metadata.distribution("onnxruntime-genai").locate_file("")))
    library = packages / "onnxruntime_genai/libonnxruntime-genai.so"
    (runtime,) = packages.glob("onnxruntime/capi/libonnxruntime.so*")
    program = tmp_path / "ask"
    command = [str(compiler), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-o", str(program)]
    command += [str(APPS / "cpp/ask.cpp"), str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run(command, check=True)
    return Native(program=program, environment={"ORT_LIB_PATH": str(runtime)})


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an app where nothing of this project is."""
    return subprocess.run(
        [str(part) for part in command],
        env={"PATH": os.environ["PATH"]} | environment,
        cwd="/",
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="links as Linux does")
def test_apps_in_python_and_cpp(exported: Path, native: Native) -> None:
    answer, decode = read_by_hand(exported, QUESTION), by_genai(exported)
    script = APPS / "python/ask.py"
    by_python = run(sys.executable, script, exported, QUESTION)
    assert by_python.returncode == 0, by_python.stderr
    assert answer.begins(by_python.stdout.removesuffix("\n"), decode)
    by_cpp = run(native.program, exported, QUESTION, **native.environment)
    assert by_cpp.returncode == 0, by_cpp.stderr
    assert by_cpp.stdout == by_python.stdout
    short = ends_early(exported, answer)
    for command in ([sys.executable, script], [native.program]):
        done = run(*command, exported, QUESTION, **native.environment)
        assert short.begins(done.stdout.removesuffix("\n"), decode)
    assert run(native.program, **native.environment).returncode == 2
    lost = run(native.program, "/nowhere", QUESTION, **native.environment)
    assert (lost.returncode, lost.stdout) == (1, "")
    assert lost.stderr.startswith("error: ")


def for_the_web(copied: Place, tmp_path: Path, options: str = "") -> Path:
    """Return the folder of a web site: the page, and an exported model for WebGPU."""
    modules = node_modules(APPS / "web/package.json")
    require("chromium", browser.PROGRAM, "needs chromium")
    copied.recipe.write_text(copied.recipe.read_text() + WEB + options + "}\n")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "node_modules").symlink_to(modules)
    for command in (["build", "onnx-web"], ["export", "onnx-web", str(folder / "model")]):
        done = copied.run(*command)
        assert done.code == 0, done.err
    for name in ("index.html", "ask.js"):
        shutil.copyfile(APPS / "web" / name, folder / name)
    return folder


def waited(page: browser.Browser, code: str, seconds: float) -> Any:
    """Return what an expression gives as soon as that is true."""
    limit = time.monotonic() + seconds
    while not (value := page.run(code)):
        assert time.monotonic() < limit, page.complaints
        time.sleep(0.05)
    return value


def opened(page: browser.Browser, url: str, seconds: float = 60) -> str:
    """Open the app; return what it says when it has loaded its model, or failed to."""
    page.open(url)
    said = f"({STATUS} != 'loading' && {STATUS})"
    return str(waited(page, said, seconds))


def asked(page: browser.Browser, question: str, seconds: float = 60) -> str:
    """Ask the app; return its answer."""
    page.run(f"document.forms[0].text.value = {json.dumps(question)}")
    page.run("document.forms[0].requestSubmit()")
    waited(page, "!document.querySelector('fieldset').disabled", seconds)
    return str(page.run("document.querySelector('pre').textContent"))


def test_the_app_in_a_browser(copied: Place, tmp_path: Path) -> None:
    """Without a GPU: what was exported for WebGPU, in float16, runs on the processor."""
    folder = for_the_web(copied, tmp_path)
    model = folder / "model"
    decode = by_transformers(model)
    answer = ends_early(model, read_by_hand(model, QUESTION))
    with site(folder) as url, browser.browser(tmp_path / "profile") as page:
        assert opened(page, url) == "ready, by wasm"
        assert answer.begins(asked(page, QUESTION), decode)
        asked(page, "long " * 600)
        assert page.run(STATUS) == "Error: the text is too long"
        (model / "tokenizer.json").unlink()
        assert "model/tokenizer.json: 404" in opened(page, url)


@pytest.mark.slow
def test_the_app_on_webgpu(copied: Place, tmp_path: Path) -> None:
    """SwiftShader computes WebGPU on a processor; it has no 16-bit numbers."""
    folder = for_the_web(copied, tmp_path, ", webgpu_fp32: true")
    model = folder / "model"
    answer, decode = read_by_hand(model, QUESTION), by_transformers(model)
    options = [*browser.WEBGPU, "--ignore-gpu-blocklist"]
    with site(folder) as url, browser.browser(tmp_path / "profile", *options) as page:
        assert opened(page, url, 300) == "ready, by webgpu"
        assert answer.begins(asked(page, QUESTION, 300), decode)


def test_apps_are_short() -> None:
    for name in ("python/ask.py", "cpp/ask.cpp", "web/ask.js"):
        assert len((APPS / name).read_text().splitlines()) <= 60
