"""Foundry Local's folder: the model, its name, and a question as its chat template writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.exporters.layouts import foundry_local
from tests.conftest import Place
from tests.support import pretend

PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def write(folder: Path, **settings: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def question(folder: Path) -> str:
    return foundry_local._question(*foundry_local._chat_template(folder), "m")


def test_a_question_is_written_by_the_template(tmp_path: Path) -> None:
    write(tmp_path / "a", chat_template=PHI)
    assert question(tmp_path / "a") == "<|user|>\n{Content}<|end|>\n<|assistant|>\n"
    # A file of its own goes before; tokens of the tokenizer have their names.
    write(tmp_path / "b", chat_template=PHI, bos_token={"content": "<s>"})
    (tmp_path / "b/chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    assert question(tmp_path / "b") == "<s>{Content}"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% if %}", "can't be rendered"),
        ("{{ ().__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ],
)
def test_a_template_that_fails_is_an_error(tmp_path: Path, template: str, why: str) -> None:
    write(tmp_path, chat_template=template)
    with pytest.raises(InputError, match=why):
        question(tmp_path)


def test_a_template_that_does_not_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foundry_local, "SECONDS", 1.0)
    loops = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
    write(tmp_path, chat_template=loops)
    with pytest.raises(InputError, match="did not end within 1 s"):
        question(tmp_path)


def test_a_model_without_a_template_says_so(place: Place, tmp_path: Path) -> None:
    pretend.write_recipe(place)
    pretend.build(place, 1)
    words = ("export", "onnx-int4", "../out", "--force", "--format", "foundry-local")
    done = place.run(*words)
    assert done.code == 0, done.err
    assert "note: the model has no chat template" in done.err
    said = json.loads((tmp_path / "out/inference_model.json").read_text())
    prompt = {"assistant": "{Content}", "prompt": "{Content}"}
    assert said == {"Name": "work-onnx-int4", "PromptTemplate": prompt}
