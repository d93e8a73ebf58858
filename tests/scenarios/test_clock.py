"""A chat template that writes the time of day, built for real: twice in two caches, with two random states, at two moments."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from olivebuild import clock
from tests.conftest import RECIPE, Place, rows, write_rows

pytestmark = pytest.mark.scenario


def test_equal_inputs_give_equal_bytes_and_the_published_template_has_the_date(tiny_model: Path, tmp_path: Path) -> None:
    made = []
    for seed, zone in (("1", "UTC-14"), ("2", "UTC+12")):
        place = Place(tmp_path / seed, tmp_path / f"cache{seed}", {"PYTHONHASHSEED": seed, "TZ": zone})
        shutil.copytree(tiny_model, place.folder / "tiny")
        template = place.folder / "tiny" / "chat_template.jinja"
        template.write_text("{{ 'It is ' + strftime_now('%d %b %Y %H:%M:%S') + '\\n' }}" + template.read_text())
        write_rows(place.folder / "data/tone.jsonl", rows())
        place.recipe.write_text(RECIPE)
        (place.folder / "olivebuild.lock").write_text('{"sources": {}, "libraries": {}, "template_date": "2026-01-02"}')
        place.edit("source: tiny}", "source: tiny, template_date: freeze}")
        place.edit(
            'prompt: "<|user|>\\n{phrase}<|end|>\\n<|assistant|>\\n"\n    completion: "{tone}<|end|>"', 'user: "{phrase}"\n    assistant: "{tone}"'
        )
        done = place.build("merged")
        assert done.ran == ["tone", "adapter", "merged"], done.err
        made.append(place.everything())
    assert made[0] == made[1]
    published = made[0]["merged/chat_template.jinja"].decode()
    assert published == clock.fixed(template.read_text(), "2026-01-02")
