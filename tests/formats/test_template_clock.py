"""Chat templates that read the clock: which do, what they are told, and what that changes in plans,
keys and olivebuild.lock.
"""

from __future__ import annotations

import json
import locale
import struct
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from olivebuild.cache.key import Part, Reason
from olivebuild.cli.main import main
from olivebuild.core.errors import RecipeError
from olivebuild.engine.actions import make_action
from olivebuild.formats import template_clock
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import Verdict
from olivebuild.recipe.file import load
from olivebuild.recipe.lockfile import FILE_NAME, Lockfile
from olivebuild.ui.why import to_text, why
from tests.support.sites import Site

LLAMA = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " }}
{{- date_string + "\\n\\n<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
GRANITE = (
    "{%- set system = \"Today's Date: \" + strftime_now('%B %d, %Y') + '.' %}{{ system }}{{ "
    "messages[0].content }}"
)
SMOL = (
    "{{- '<|im_start|>system\\n' -}}{%- set today = strftime_now(\"%d %B %Y\") -%}{{ 'Today "
    "Date: ' ~ today }}{{ messages[0]['content'] }}"
)
GPT_OSS = (
    '{%- macro build() -%}{{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n" }}{%- '
    "endmacro -%}{{- build() }}{{ messages[0].content }}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' "
    "}}{% endfor %}"
)
FIXED = '{%- set date_string = "26 Jul 2024" %}{{ date_string }}{{ messages[0].content }}'
MESSAGES = [{"role": "user", "content": "Hello"}]
RECIPE = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: rows.jsonl, user: "{q}", assistant: "{a}"}
  plain: {kind: dataset, source: rows.jsonl, prompt: "{q}", completion: "{a}"}
  adapter: {kind: adapter, model: base, data: tone.train}
  written: {kind: adapter, model: base, data: plain.train}
  merged: {kind: merged, model: base, adapter: adapter}
  int4: {kind: onnx, model: merged, precision: int4}
  bench: {kind: benchmark, models: [base, adapter, merged, int4], data: tone}
"""


def rendered(template: str) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    render: Any = render_jinja_template
    texts, _ = render(
        [MESSAGES], chat_template=template, add_generation_prompt=True, bos_token="<s>"
    )
    return str(texts[0])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(template_clock, "today", lambda: "2026-11-28")
    site = Site(tmp_path, RECIPE)
    site.write("rows.jsonl", '{"q": "1", "a": "2"}\n')
    site.write("base/config.json", '{"model_type": "llama"}')
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (site.folder / "base/model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + b"x"
    )
    site.write("base/chat_template.jinja", LLAMA)
    for data in ("tone", "plain"):
        site.made(data, train="rows", test="rows")
    return site


def dates(plan: Plan) -> dict[str, str]:
    """target or node -> its date."""
    return {
        name: p.value
        for name, state in plan.states.items()
        for p in state.parts
        if p.label == "template_date"
    }


def build(site: Site) -> tuple[Plan, list[str]]:
    """What a build would plan, and what it says when it pins a date."""
    planner, said = site.planner(), list[str]()
    planner.dating.pinned = lambda node, text: said.append(f"{node.target}: {text}")
    try:
        return planner.plan(planner.graph.all_goals), said
    finally:
        planner.traces.close()


# -- which templates read the clock


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


# -- what they are told


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


# -- keys


def test_what_is_rendered_with_such_a_template_has_the_date_in_its_key(site: Site) -> None:
    assert dates(site.plan()) == {"adapter": "2026-11-28", "bench:accuracy.base": "2026-11-28"}
    site.made("adapter")
    found = dates(site.plan())
    assert found == dict.fromkeys(
        ["adapter", "bench:accuracy.base", "bench:accuracy.adapter"], "2026-11-28"
    )


@pytest.mark.parametrize("template", [CHATML, FIXED])
def test_all_other_keys_have_none(site: Site, template: str) -> None:
    site.write("base/chat_template.jinja", template)
    plan = site.plan()
    assert not dates(plan)
    assert not site.planner().dating.told(plan.lookups)
    assert build(site)[1] == []
    assert not (site.folder / FILE_NAME).exists()


def test_rows_whose_prompts_are_written_out_need_no_date(site: Site) -> None:
    assert "template_date" not in {p.label for p in site.plan("written").states["written"].parts}


def test_the_other_parts_of_a_key_stay(site: Site) -> None:
    with_clock = site.plan().states["adapter"].parts
    site.write("base/chat_template.jinja", CHATML)
    without = site.plan().states["adapter"].parts
    labels = [(p.cause, p.label) for p in with_clock]
    assert [x for x in labels if x != ("parameter", "template_date")] == [
        (p.cause, p.label) for p in without
    ]


def test_the_worker_is_told_the_date_of_the_key(site: Site) -> None:
    planner = site.planner()
    plan = planner.plan(["adapter", "merged"])
    assert (
        make_action(planner, plan, plan.states["adapter"], Path(".")).template_date == "2026-11-28"
    )
    planner.traces.close()


def test_a_field_is_the_date_and_is_no_part_of_the_models_own_key(site: Site) -> None:
    site.edit("source: base}", "source: base, template_date: 2026-01-02}")
    plan, said = build(site)
    assert dates(plan)["adapter"] == "2026-01-02"
    assert said == []
    assert not (site.folder / FILE_NAME).exists()


def test_another_date_is_a_reason_that_why_tells(site: Site) -> None:
    site.made("adapter")
    assert site.plan("adapter").states["adapter"].verdict is Verdict.FRESH
    site.edit("source: base}", "source: base, template_date: 2027-01-02}")
    plan, planner = site.plan("adapter"), site.planner()
    assert list(plan.states["adapter"].reasons) == [
        Reason("parameter", "template_date", "2026-11-28", "2027-01-02")
    ]
    assert "parameter template_date: 2026-11-28 -> 2027-01-02" in to_text(
        why(plan, planner.workspace, "adapter")
    )
    planner.traces.close()


def test_a_template_that_begins_to_read_the_clock_is_seen(site: Site) -> None:
    site.write("base/chat_template.jinja", CHATML)
    assert not dates(site.plan())
    site.write("base/chat_template.jinja", GRANITE)
    assert dates(site.plan())["adapter"] == "2026-11-28"


def test_freezing_is_in_the_keys_of_what_is_published(site: Site) -> None:
    site.edit("source: base}", "source: base, template_date: freeze}")
    site.made("adapter")
    found = dates(site.plan("merged"))
    assert found == {"adapter": "2026-11-28", "merged": "freeze 2026-11-28"}


def test_models_of_several_dates_are_an_error(site: Site) -> None:
    site.edit(
        "targets:\n", "targets:\n  full: {kind: model, source: base, template_date: 2026-01-02}\n"
    )
    site.edit("merged: {kind: merged, model: base", "merged: {kind: merged, model: full")
    site.made("adapter")
    site.made("merged")
    with pytest.raises(RecipeError) as caught:
        site.plan("bench")
    assert "2026-11-28 of base" in caught.value.fact
    assert "2026-01-02 of full" in caught.value.fact


@pytest.mark.parametrize("given", ["yesterday", "2026-02-30", "'2026'", "'20261128'"])
def test_a_field_that_is_no_date_is_an_error_with_its_line(site: Site, given: str) -> None:
    site.edit("source: base}", f"source: base, template_date: {given}}}")
    with pytest.raises(RecipeError) as caught:
        load(site.folder / "olivebuild.yaml")
    assert (
        "is not a date; write it as 2026-11-28, or freeze"
        in f"{caught.value.fact}; {caught.value.hint}"
    )
    assert caught.value.where
    assert caught.value.where.line == 2


def test_a_field_without_effect_is_told(site: Site) -> None:
    site.write("base/chat_template.jinja", CHATML)
    site.edit("source: base}", "source: base, template_date: 2026-01-02}")
    said = [text for _, text in site.planner().dating.ignored(site.plan().lookups)]
    assert said == [
        "template_date changes nothing: the chat template of base does not read the clock"
    ]


def test_what_was_seen_of_a_model_holds_where_it_is_not(site: Site) -> None:
    """A hub's model, on a machine that has the cache of results and not the hub's."""
    site.edit("source: base}", "source: hf:a/base}")
    site.write(FILE_NAME, json.dumps({"sources": {"hf:a/base": "0123"}, "libraries": {}}))
    planner = site.planner()
    base = planner.plan(["base"]).states["base"]
    from olivebuild.cache.traces import Trace

    assert base.key
    gone = str(site.folder / "gone")
    planner.traces.put(
        Trace(
            base.key,
            "model",
            base.parts,
            {"": "0" * 32},
            reference=gone,
            provenance={"reads_clock": True},
        )
    )
    assert planner.dating.parts(
        planner.graph.nodes["adapter"], planner.plan(["adapter"]).lookups
    ) == [Part("parameter", "template_date", "2026-11-28")]
    planner.traces.close()


# -- olivebuild.lock


def test_the_first_build_pins_todays_date_for_all_that_follow(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, said = build(site)
    assert dates(plan)["adapter"] == "2026-11-28"
    assert said == [
        f"base: its chat template reads the clock: {FILE_NAME} has 2026-11-28 now, which is its "
        "date in all builds"
    ]
    assert Lockfile(site.folder / FILE_NAME).template_date == "2026-11-28"
    monkeypatch.setattr(template_clock, "today", lambda: "2027-06-01")
    again, said = build(site)
    assert dates(again) == dates(plan)
    assert said == []


def test_a_plan_pins_nothing_and_says_with_which_date(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> str:
        return "; ".join(map(str, site.planner().dating.told(site.plan().lookups)))

    assert told() == (
        "the chat template of base reads the clock: it will be rendered with the date of the "
        "first build, 2026-11-28 if that is today"
    )
    assert not (site.folder / FILE_NAME).exists()
    build(site)
    assert told() == (
        "the chat template of base reads the clock: it is rendered with 2026-11-28, which "
        "olivebuild.lock has"
    )
    site.edit("source: base}", "source: base, template_date: 2026-01-02}")
    assert told() == (
        "the chat template of base reads the clock: it is rendered with 2026-01-02, its "
        "template_date"
    )
    site.edit("2026-01-02", "freeze")
    assert told().endswith("2026-11-28, which olivebuild.lock has; what is merged has it fixed")


def command(site: Site, *words: str) -> Any:
    return CliRunner(env={"OLIVEBUILD_CACHE": str(site.cache)}).invoke(
        main, [*words, "-C", str(site.folder)], catch_exceptions=False
    )


def test_the_command_line_tells_and_updates(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "note     base           the chat template of base reads the clock"
        in command(site, "plan").output
    )
    assert json.loads(command(site, "plan", "--json").output)["template_dates"] == [
        {"target": "base", "date": "2026-11-28", "origin": "first build", "freezes": False}
    ]
    build(site)
    site.made("adapter")
    monkeypatch.setattr(template_clock, "today", lambda: "2027-06-01")
    assert command(site, "update").output == ""
    assert Lockfile(site.folder / FILE_NAME).template_date == "2026-11-28"
    assert (
        command(site, "update", "--template-date").output
        == "template_date: 2026-11-28 -> 2027-06-01\n"
    )
    assert command(site, "update", "--template-date").output == "template_date: unchanged\n"
    assert list(site.plan("adapter").states["adapter"].reasons) == [
        Reason("parameter", "template_date", "2026-11-28", "2027-06-01")
    ]
    for word, fact in (
        ("base", "--template-date takes no targets"),
        ("2026-02-03", "--template-date takes no date"),
    ):
        with pytest.raises(RecipeError, match=fact) as caught:
            command(site, "update", "--template-date", word)
        assert (
            f"the field `template_date: {'2027-06-01' if word == 'base' else word}` of a model"
            in caught.value.hint
        )
    site.edit("source: base}", "source: base, template_date: 2026-01-02}")
    assert (
        "base has a template_date of its own, 2026-01-02, which stays"
        in command(site, "update", "--template-date").output
    )


def test_old_lock_files_load_and_what_others_wrote_survives(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    file.write_text(
        json.dumps(
            {"version": 1, "sources": {"hf:a": "1"}, "libraries": {"torch": "2"}, "later": {"x": 1}}
        )
    )
    lock = Lockfile(file)
    assert lock.template_date == ""
    lock.pin_template_date("2026-11-28")
    lock.save()
    assert json.loads(file.read_text()) == {
        "version": 1,
        "sources": {"hf:a": "1"},
        "libraries": {"torch": "2"},
        "later": {"x": 1},
        "template_date": "2026-11-28",
    }
    again = Lockfile(file)
    again.note_version("torch", "3")
    again.save()
    assert Lockfile(file).template_date == "2026-11-28"


def test_of_two_first_builds_the_date_saved_first_holds_for_both_and_an_update_replaces_it(
    tmp_path: Path,
) -> None:
    one, two = Lockfile(tmp_path / FILE_NAME), Lockfile(tmp_path / FILE_NAME)
    one.pin_template_date("2026-11-28")
    two.pin_template_date("2026-11-29")
    one.save()
    two.save()
    assert (
        one.template_date == two.template_date == Lockfile(one.file).template_date == "2026-11-28"
    )
    three, beside = Lockfile(one.file), Lockfile(one.file)
    three.pin_template_date("2026-12-01")
    three.save()
    beside.pin("hf:b", "2")
    beside.save()
    assert beside.template_date == Lockfile(one.file).template_date == "2026-12-01"


@pytest.mark.parametrize("given", ["2026-13-01", 20261128, None, ["2026-11-28"]])
def test_a_lock_file_without_a_date_where_one_stands_is_told(tmp_path: Path, given: object) -> None:
    (tmp_path / FILE_NAME).write_text(
        json.dumps({"sources": {}, "libraries": {}, "template_date": given})
    )
    with pytest.raises(RecipeError):
        Lockfile(tmp_path / FILE_NAME)
