"""The date in the templates of what is published."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.ml.models.frozen_dates import date_of, in_folder

TEMPLATE = "{{ strftime_now('%Y-%m-%d') }}: {{ messages[0].content }}"


def job_with(date: str) -> Job:
    action = Action("t", "t", "merged", "0" * 32, {}, {}, {}, "/none", "/none")
    return Job(action._replace(template_date=date), io.StringIO())


@pytest.mark.parametrize(
    ("given", "date"), [("", ""), ("2026-11-28", ""), ("freeze 2026-11-28", "2026-11-28")]
)
def test_a_date_is_fixed_only_where_that_is_asked_for(given: str, date: str) -> None:
    assert date_of(job_with(given)) == date


def test_templates_that_read_the_clock_get_the_date(tmp_path: Path) -> None:
    from jinja2 import Environment

    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 5}')
    in_folder(job_with("2026-11-28"), tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == TEMPLATE
    in_folder(job_with("freeze 2026-11-28"), tmp_path)
    fixed = (tmp_path / "chat_template.jinja").read_text()
    assert fixed != TEMPLATE
    shown = Environment(autoescape=True).from_string(fixed).render(messages=[{"content": "hi"}])
    assert shown == "2026-11-28: hi"
    assert (tmp_path / "tokenizer_config.json").read_text() == '{"model_max_length": 5}'
