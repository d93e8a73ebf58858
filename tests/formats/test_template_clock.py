"""Chat templates that read the clock: which do, what they are told, and what that changes in plans,
keys and olivebuild.lock.
"""

from __future__ import annotations

import json
import locale
from pathlib import Path

import pytest

from olivebuild.formats import template_clock
from tests.support.clocks import CHATML, FIXED, GPT_OSS, GRANITE, LLAMA, SMOL, dated_site, rendered
from tests.support.sites import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return dated_site(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LLAMA, True),
        (GRANITE, True),
        (SMOL, True),
        (GPT_OSS, True),
        (CHATML, False),
        (FIXED, False),
    ],
)
@pytest.mark.parametrize("place", ["jinja", "config", "list", "additional", "json"])
def test_a_template_is_found_wherever_transformers_takes_it_from(
    tmp_path: Path, template: str, expected: bool, place: str
) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    several = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": template}]
    name, text = {
        "jinja": ("chat_template.jinja", template),
        "config": ("tokenizer_config.json", json.dumps({"chat_template": template})),
        "list": ("tokenizer_config.json", json.dumps({"chat_template": several})),
        "additional": ("additional_chat_templates/rag.jinja", template),
        "json": ("chat_template.json", json.dumps({"chat_template": template})),
    }[place]
    (tmp_path / name).write_text(text)
    assert template_clock.folder_reads_clock(tmp_path) is expected


def test_a_name_that_only_occurs_elsewhere_in_the_configuration_is_no_clock(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": CHATML, "note": "strftime_now('%Y')"})
    )
    assert not template_clock.folder_reads_clock(tmp_path)
    assert not template_clock.folder_reads_clock(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        ("%d %b %Y", "28 Nov 2026"), ("%B %d, %Y", "November 28, 2026"),
        ("%A, %-d. %m. %y", "Saturday, 28. 11. 26"), ("%Y-%m-%d", "2026-11-28"),
        ("%H:%M:%S.%f %I %p", "00:00:00.000000 12 AM"), ("100%% %a %j %u", "100% Sat 332 6"),
        ("%c", "Sat Nov 28 00:00:00 2026"),
        ("%x|%X", "11/28/26|00:00:00"), ("%s", "1795824000"), ("%^b %e", "NOV 28"), ("", ""),
        ("no directive", "no directive"),
    ],
)  # fmt: skip
def test_a_date_is_the_beginning_of_its_day_in_english(format_: str, expected: str) -> None:
    assert template_clock.write("2026-11-28", format_) == expected


def test_the_locale_changes_no_date() -> None:
    before = locale.setlocale(locale.LC_TIME)
    wanted = template_clock.write("2026-03-04", "%A %d %B %b %a %p %c %x")
    names = [n for n in ("de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8", "POSIX") if _has(n)]
    try:
        for name in names:
            locale.setlocale(locale.LC_TIME, name)
            assert template_clock.write("2026-03-04", "%A %d %B %b %a %p %c %x") == wanted
    finally:
        locale.setlocale(locale.LC_TIME, before)
    assert wanted == "Wednesday 04 March Mar Wed AM Wed Mar  4 00:00:00 2026 03/04/26"


def _has(name: str) -> bool:
    before = locale.setlocale(locale.LC_TIME)
    try:
        locale.setlocale(locale.LC_TIME, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_TIME, before)
    return True


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LLAMA, "Today Date: 28 Nov 2026\n"),
        (GRANITE, "Today's Date: November 28, 2026.Hello"),
        (SMOL, "Today Date: 28 November 2026Hello"),
        (GPT_OSS, "Current date: 2026-11-28"),
        ("{{ strftime_now(format='%d') }}", "28"),
        ("{%- set f = '%d' %}{{ strftime_now(f ~ '/%m 5%%') }}", "28/11 5%"),
        ("\n\n  {% if true %}x{% endif %}{{ strftime_now('%Y') }}", "\n\nx2026"),
        ("  {% if true %}\nx{% endif %}{{ strftime_now('%Y') }}", "x2026"),
        (" {{ strftime_now('%H:%M:%S') }}\n", " 00:00:00"),
    ],
)
def test_a_fixed_template_writes_the_date_and_else_what_it_wrote(
    template: str, expected: str
) -> None:
    fixed = template_clock.fixed(template, "2026-11-28")
    assert expected in rendered(fixed)
    assert not template_clock.reads_clock(fixed)
    assert template_clock.fixed(fixed, "2030-01-01") == fixed


def test_a_fixed_template_differs_from_the_original_in_its_date_alone() -> None:
    def without_digits(text: str) -> str:
        return "".join("0" if c.isdigit() else c for c in text)

    template = LLAMA.replace("%d %b %Y", "%d %m %Y")
    assert without_digits(rendered(template_clock.fixed(template, "2026-11-28"))) == without_digits(
        rendered(template)
    )


@pytest.mark.parametrize("template", [CHATML, FIXED])
def test_a_template_without_a_clock_stays_as_it_is(template: str) -> None:
    assert template_clock.fixed(template, "2026-11-28") == template


def test_without_a_date_and_with_an_unknown_directive_rendering_fails() -> None:
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="no date was given"):
        rendered(template_clock.fixed(LLAMA, ""))
    with pytest.raises(TemplateError, match="no date is known for %j"):
        rendered(template_clock.fixed("{{ strftime_now('%' ~ 'j') }}", "2026-11-28"))


def test_files_keep_everything_but_the_templates() -> None:
    given = {
        "a": 1,
        "chat_template": [
            {"name": "default", "template": CHATML},
            {"name": "tool_use", "template": SMOL},
        ],
        "z": "ü",
    }
    made = json.loads(
        template_clock.fixed_file("tokenizer_config.json", json.dumps(given).encode(), "2026-11-28")
    )
    assert list(made) == list(given)
    assert {**made, "chat_template": 0} == {**given, "chat_template": 0}
    assert [t["template"] for t in made["chat_template"]] == [
        CHATML,
        template_clock.fixed(SMOL, "2026-11-28"),
    ]
    data = json.dumps({"chat_template": CHATML}).encode()
    assert template_clock.fixed_file("tokenizer_config.json", data, "2026-11-28") == data
    assert (
        template_clock.fixed_file("chat_template.jinja", SMOL.encode(), "2026-11-28")
        == template_clock.fixed(SMOL, "2026-11-28").encode()
    )


@pytest.mark.parametrize(
    "text", ["2026-13-01", "2026-02-30", "28.11.2026", "20261128", "now", "", "2026-11-28T00:00"]
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a date; write it as 2026-11-28"):
        template_clock.check_date(text)
