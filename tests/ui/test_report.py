"""The report: what it says, in all its forms; that hostile text stays text; and the page in a real
browser.
"""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.text import clean as clean_text
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.ui.report.collect.benchmarks import _sample
from olivebuild.ui.report.collect.report import collect
from olivebuild.ui.report.collect.rows import unframed
from olivebuild.ui.report.collect.trainings import thin
from olivebuild.ui.report.records import Edit, Gate, Report
from olivebuild.ui.report.render import html as page
from olivebuild.ui.report.render import junit, markdown
from olivebuild.ui.report.render.page_text import words
from tests.conftest import Place
from tests.support import browser, page_rules, pretend
from tests.support.require import require

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\x01\x1b[2J\x9b\u202e\ufffe"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Three builds of a recipe: a first one, a row reworded, and one in which int4 lost much."""
    root = tmp_path_factory.mktemp("report")
    place = Place(root / "tone", root / "cache")
    place.folder.mkdir()
    pretend.write_recipe(place)
    pretend.build(place, 1)
    rows = place.folder / "data/tone.jsonl"
    rows.write_text(
        rows.read_text().replace("glad about our garden", "glad <script> about our garden")
    )
    pretend.build(place, 2)
    place.edit("steps: 60", "steps: 61")
    pretend.build(place, 3, lost=0.3)
    return place


def reported(place: Place) -> Report:
    project = pretend.opened(place)
    plan = project.planner.plan(project.graph.all_goals)
    found = collect(project, plan)
    project.planner.traces.close()
    return found


@pytest.fixture(scope="module")
def report(told: Place) -> Report:
    return reported(told)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Five models, three of which there is a choice of."""
    root = tmp_path_factory.mktemp("searched")
    place = Place(root / "tone", root / "cache")
    place.folder.mkdir()
    pretend.write_recipe(place, pretend.SEARCH)
    pretend.build(place, 1)
    return reported(place)


def copy_of(told: Place, tmp_path: Path) -> Place:
    place = Place(tmp_path / "tone", told.cache)
    shutil.copytree(told.folder, place.folder)
    return place


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return page.render(report)


def test_it_says_what_was_built(report: Report) -> None:
    assert [(t.name, t.outcome) for t in report.targets] == [
        ("base", "kept"), ("tone", "kept"), ("adapter", "ran"), ("merged", "ran"),
        ("onnx-int4", "ran"), ("bench", "ran"),
    ]  # fmt: skip
    assert {t.name: t.why for t in report.targets}["adapter"] == (
        "parameter training.steps: 60 -> 61",
    )
    assert (report.builds[0].number, report.builds[0].causes) == (
        3,
        ("parameter training.steps: 60 -> 61",),
    )
    assert report.builds[0].saved == pytest.approx(report.datasets and 31.0, abs=10)
    bench = report.benches[0]
    assert [m.name for m in bench.models] == ["base", "merged", "onnx-int4"]
    assert bench.since.startswith("since build 2: -")
    assert [(t.figure, len(t.points)) for t in bench.trends] == [
        ("accuracy", 3),
        ("tokens_per_second", 3),
    ]
    assert [p.edits for p in bench.trends[0].points][2] == ("parameter training.steps: 60 -> 61",)
    assert [c.name for c in report.trainings[0].curves] == [
        "loss",
        "lr",
        "grad_norm",
        "eval_loss",
        "eval_accuracy",
    ]


def test_what_the_last_edit_of_the_data_changed(report: Report) -> None:
    data = report.datasets[0]
    assert (data.since, data.added, data.removed) == (2, 1, 1)
    assert (data.edits[0].before, data.edits[0].after) == (
        "glad about our garden → joy",
        "glad <script> about our garden → joy",
    )


def test_answers_that_changed_are_told_with_what_was_asked(report: Report) -> None:
    flips = report.benches[0].flips[0]
    lost = flips.moves[1].lost
    assert lost > 3
    assert [[r.right for r in f.replies][1:] for f in flips.rows[:lost]] == [[True, False]] * lost
    assert all(f.text.startswith(pretend.WORDS[f.expected]) for f in flips.rows)


def test_answers_that_changed_since_the_build_before(report: Report) -> None:
    turned = report.benches[0].turned
    assert turned[0].model == "onnx-int4"
    assert {f.columns for f in turned} == {("build 2", "build 3")}
    for flips in turned:
        [move] = flips.moves
        assert move.lost + move.won + move.other == flips.count == len(flips.rows) > 0
        assert [(r.replies[0].right, r.replies[1].right) for r in flips.rows[: move.lost]] == [
            (True, False)
        ] * move.lost
    assert turned[0].moves[0].lost > 3


def test_rows_are_known_again_after_an_edit_of_the_data(tmp_path: Path) -> None:
    place = Place(tmp_path / "tone", tmp_path / "cache")
    place.folder.mkdir()
    pretend.write_recipe(place)
    pretend.build(place, 1)

    def asked() -> list[str]:
        return [
            row["prompt"].split("\n")[2] for row in pretend._test_rows(place.folder / "build/tone")
        ]

    before, rows = asked(), place.folder / "data/tone.jsonl"
    kept = [line for line in rows.read_text().splitlines() if "river" not in line]
    more = [
        f'{{"phrase": "so {word} it all {n}", "tone": "{tone}"}}'
        for tone, word in pretend.WORDS.items()
        for n in ("once", "now", "still")
    ]
    rows.write_text("\n".join([*more, *kept]) + "\n")
    pretend.build(place, 2)
    now = asked()
    assert len(set(now) - set(before)) > 1
    turned = reported(place).benches[0].turned
    assert {f.fresh for f in turned} == {len(set(now) - set(before))}
    for flip in (flip for flips in turned for flip in flips.rows):
        assert flip.text in now[flip.number - 1]
        assert now[flip.number - 1] in before

    place.edit("Is the tone joy", "Is the mood joy")
    pretend.build(place, 3)
    turned = reported(place).benches[0].turned
    assert (asked(), {f.fresh for f in turned}) == (now, {0})


def test_a_choice_is_told_with_its_front(searched: Report) -> None:
    [choice] = searched.choices
    assert (choice.chosen, choice.best, choice.axes) == (
        "onnx-int4",
        "onnx-int4",
        ("accuracy", "tokens_per_second", "size"),
    )
    states = {c.model: c.gates and [g.state for g in c.gates] for c in choice.contenders}
    assert list(states.items()) == [
        ("onnx-int4", ["undecided", "met"]), ("onnx-int8", ["met", "missed"]),
        ("onnx-wide", ["undecided", "met"]),
        ("base", None), ("merged", None),
    ]  # fmt: skip
    assert {c.model: c.beaten_by for c in choice.contenders if c.beaten_by} == {
        "base": "merged",
        "merged": "onnx-int8",
    }
    text = markdown.render(searched)
    assert "**onnx-int4**, by accuracy, among the models of bench" in text


def test_a_choice_without_a_model_that_passes(searched: Report) -> None:
    none = replace(searched.choices[0], chosen="", best="")
    shown = page.render(replace(searched, choices=(none,)))
    assert "None was chosen yet." in shown
    other = page.render(
        replace(searched, choices=(replace(none, chosen="onnx-wide", best="onnx-int4"),))
    )
    assert re.search(
        r"<b>onnx-wide</b> was chosen last.\s+By the gates and figures of now it would be "
        r"<b>onnx-int4</b>.",
        other,
    )
    assert "No model meets all gates; onnx-int4 is nearest." in shown
    assert "**no model meets all gates**" in markdown.render(replace(searched, choices=(none,)))


def test_no_text_is_markup(report: Report) -> None:
    hostile = replace(
        report,
        name=HOSTILE,
        recipe=HOSTILE,
        machine={HOSTILE: HOSTILE},
        libraries={HOSTILE: HOSTILE},
    )
    gates = tuple(replace(g, text=HOSTILE, target=HOSTILE, note=HOSTILE) for g in report.gates)
    targets = tuple(
        replace(t, kind=HOSTILE, why=(HOSTILE,), facts={HOSTILE: HOSTILE}) for t in report.targets
    )
    bench = report.benches[0]
    models = tuple(replace(m, name=HOSTILE, notes=(HOSTILE,)) for m in bench.models)
    benches = (replace(bench, since=HOSTILE, models=models, baselines={HOSTILE: {"tone": 0.5}}),)
    decision = replace(
        report.decision,
        headline=HOSTILE,
        reasons=(HOSTILE,),
        artefacts=tuple(
            replace(a, target=HOSTILE, path=HOSTILE) for a in report.decision.artefacts
        ),
        others={HOSTILE: HOSTILE},
    )
    diagnostics = (Diagnostic(code="one-label", severity="error", text=HOSTILE, hint=HOSTILE),)
    hostile = replace(
        hostile, gates=gates, targets=targets, benches=benches, decision=decision,
        diagnostics=diagnostics,
    )  # fmt: skip
    clean = page.render(hostile)
    assert HOSTILE not in clean
    assert "<script" not in clean
    assert "<img" not in clean
    assert "&lt;script&gt;" in clean
    text = markdown.render(hostile)
    cases = ElementTree.fromstring(junit.render(hostile))
    assert next(cases.iter("testcase")).get("name") == clean_text(HOSTILE)
    for shown in (clean, text, junit.render(hostile)):
        assert "\\u202e" in shown.replace("\\\\", "\\")
        assert not set("\x01\x1b\x9b\u202e\ufffe") & set(shown)
    assert "<script" not in text
    assert "<img" not in text


def test_the_page_needs_nothing_else(html: str) -> None:
    assert len(html.encode()) < 1_000_000
    links = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"'\s>)]*)""", html)
    assert {link for link in links if not link.startswith("#")} == {"data:,"}
    assert "default-src 'none'" in html
    shown = re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.S)
    assert not re.search(r"\b(nan|None|undefined|Undefined|inf)\b", shown)
    assert "Do not ship: 1 met, 1 missed, 1 not decided" in shown


def test_a_large_recipe_still_fits(report: Report) -> None:
    targets = tuple(
        replace(report.targets[1], name=f"t{i}", why=("file " + "x" * 200,) * 5, inputs=())
        for i in range(5000)
    )
    builds = report.builds * 20
    html = page.render(replace(report, targets=targets, builds=builds[:50], benches=report.benches))
    assert len(html.encode()) < 1_000_000
    assert "and 4700 more targets" in html


def test_a_report_of_nothing_is_a_page_too(place: Place) -> None:
    pretend.write_recipe(place)
    done = place.run("report")
    assert done.code == 0, done.err
    text = (place.folder / "build/report.html").read_text()
    assert "Not built here yet" in text
    assert "Not up to date" in text


def test_targets_that_changed_since_are_told_with_their_last_results(
    told: Place, tmp_path: Path
) -> None:
    place = copy_of(told, tmp_path)
    place.edit("steps: 61", "steps: 62")
    done = place.run("report", "--out", "page.html")
    assert done.out == "wrote page.html\n"
    text = (place.folder / "page.html").read_text()
    assert "adapter, merged, onnx-int4, bench changed since; their last results are shown" in text
    assert "models side by side" in text
    assert "Not up to date: 1 met, 1 missed, 1 not decided" in text


@pytest.mark.parametrize(("strict", "kind"), [(False, "skipped"), (True, "failure")])
def test_a_gate_that_is_not_decided_is_skipped_in_junit_unless_it_is_strict(
    report: Report, strict: bool, kind: str
) -> None:
    undecided = Gate(
        target="bench",
        text="accuracy >= 0.9",
        value="91.0 %",
        passed=False,
        state="undecided",
        fails=strict,
        note="80.0 to 95.0 %",
    )
    changed = replace(report, gates=(undecided,))
    root = ElementTree.fromstring(junit.render(changed))
    (case,) = root.iter("testcase")
    assert [child.tag for child in case] == [kind]
    assert "not decided" in case[0].attrib["message"]
    assert root.attrib["failures"] == str(int(strict))


def test_markdown_goes_to_the_summary_too(told: Place, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    told.environment["GITHUB_STEP_SUMMARY"] = str(summary)
    done = told.run("report", "--markdown", "--junit", str(tmp_path / "gates.xml"))
    told.environment.clear()
    assert done.code == 0, done.err
    assert summary.read_text() == "before\n" + done.out
    assert "**Do not ship: 1 met, 1 missed, 1 not decided** ❌" in done.out
    assert re.search(r"^\| ttft\\_p95 &lt;= 20ms \| 1\d\.\d ms \| met \|  \|$", done.out, re.M)
    assert re.search(r"^\| onnx-int4 \| \d+\.\d % \(\d+ to \d+\) \|", done.out, re.M)
    root = ElementTree.parse(tmp_path / "gates.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("3", "1")
    cases = {case.get("name"): case[0] for case in root.iter("testcase")}
    assert re.fullmatch(r"ttft_p95 <= 20ms: 1\d\.\d ms, met", cases["ttft_p95 <= 20ms"].text or "")
    assert str(cases["accuracy >= 0.8"].get("message")).startswith("accuracy >= 0.8: ")


def test_json_has_all_of_it(told: Place) -> None:
    data = json.loads(told.run("report", "--json").out)
    assert [g["passed"] for g in data["gates"]] == [False, False, True]
    assert data["benches"][0]["models"][2]["samples"]["gaps"]["count"] == 180


def test_builds_and_models_are_compared(told: Place) -> None:
    changes = json.loads(told.run("compare", "--json").out)
    assert (changes["old"], changes["new"]) == ("build 2", "build 3")
    assert [r["what"] for r in changes["causes"]] == ["training.steps"]
    worse = [c for c in changes["changes"] if c["better"] is False]
    assert ("onnx-int4", "accuracy") in {(c["model"], c["figure"]) for c in worse}
    text = told.run("compare", "merged", "onnx-int4").out
    assert text.startswith("merged -> onnx-int4\n")
    assert re.search(r"onnx-int4 +size +270 MB +100 MB +63 % smaller", text)
    done = told.run("compare", "merged", "onnx-int8")
    assert (done.code, "did you mean onnx-int4?" in done.err) == (2, True)


def test_many_values_are_thinned_and_ends_are_kept() -> None:
    assert thin([(i, float(i)) for i in range(1000)], 5) == (
        (0, 0),
        (250, 250),
        (500, 500),
        (749, 749),
        (999, 999),
    )
    assert thin([(1, float("nan")), (2, 1.0)]) == ((2, 1),)
    sample = _sample([float(i) for i in range(10_000)])
    assert (sample.count, len(sample.values), sample.values[0], sample.values[-1]) == (
        10_000,
        160,
        0,
        9999,
    )


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (
            ["<|user|>\nIs it joy?\nred<|end|>", "<|user|>\nIs it joy?\nrose<|end|>"],
            ["red", "rose"],
        ),
        (["a", "a"], ["a", "a"]),
        (["only"], ["only"]),
        (["say one", "say one more"], ["one", "one more"]),
    ],
)
def test_what_all_rows_share_is_left_out(texts: list[str], shown: list[str]) -> None:
    assert unframed(texts) == shown


def test_words_that_changed_are_told_in_runs() -> None:
    assert list(words(Edit("train", "glad about it", "happy with it"))) == [
        ("-", "glad about"),
        ("+", "happy with"),
        (" ", " it"),
    ]
    assert list(words(Edit("train", "", "new row"))) == [("+", "new row")]


@pytest.fixture(scope="module")
def opened(
    html: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[browser.Browser, Path]]:
    require("chromium", browser.PROGRAM, "no chromium is installed")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "report.html").write_text(html, "utf-8")
    with browser.browser(folder / "profile") as window:
        yield window, folder / "report.html"


CHARTS = """[...document.querySelectorAll('figure.chart')].map(f => ({
    title: f.innerText.split('\\n')[0],
    told: +f.dataset.values,
    rows: f.querySelectorAll('table tr').length - 1,
    values: [...f.querySelectorAll('table td')].filter(td => td.textContent.trim()).length,
    named: [...f.querySelectorAll('[role=img]')].every(
        i => i.ariaLabel || i.querySelector('title')?.textContent),
    drawn: [...f.querySelectorAll('svg path, .dot, .confusion td')].every(p => {
        const b = p.getBoundingClientRect(); return b.width + b.height > 0 }),
    inside: [...f.querySelectorAll('.plot path:not(.dots)')].every(p => {
        const a = p.getBoundingClientRect(), b = p.ownerSVGElement.getBoundingClientRect();
        return a.left >= b.left - 2 && a.right <= b.right + 2 &&
            a.top >= b.top - 2 && a.bottom <= b.bottom + 2 }),
}))"""


@pytest.mark.parametrize(
    ("width", "dark", "phone"),
    [(1200, False, False), (1200, True, False), (390, False, True), (390, True, True)],
)
def test_the_page_in_a_browser(
    opened: tuple[browser.Browser, Path], width: int, dark: bool, phone: bool
) -> None:
    window, file = opened
    window.look(width, dark=dark, phone=phone)
    window.open(file)
    assert window.complaints == []
    assert window.requests == [file.as_uri()]
    window.run(page_rules.OPEN)
    found: list[dict[str, Any]] = window.run(CHARTS)
    # One accuracy, three latencies, a confusion matrix in sight and two folded, two trends, four of
    # the training.
    assert len(found) == 13
    for chart in found:
        assert chart["told"] == chart["rows"] > 0, chart
        assert chart["values"] >= chart["rows"], chart
        assert (chart["named"], chart["drawn"], chart["inside"]) == (True, True, True), chart
    assert window.run("document.documentElement.scrollWidth") == width
    background = window.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 21, 17)" if dark else "rgb(252, 252, 250)")
    missed = window.run("getComputedStyle(document.querySelector('tr.missed td')).color")
    assert missed == ("rgb(255, 145, 135)" if dark else "rgb(179, 38, 30)")


@pytest.mark.parametrize(("width", "dark"), [(1200, True), (390, False)])
def test_a_choice_in_a_browser(
    opened: tuple[browser.Browser, Path], searched: Report, width: int, dark: bool
) -> None:
    window, file = opened
    searching = file.with_name("searched.html")
    searching.write_text(page.render(searched), "utf-8")
    window.look(width, dark=dark, phone=width < 400)
    window.open(searching)
    assert window.complaints == []
    assert window.requests == [searching.as_uri()]
    found = [chart for chart in window.run(CHARTS) if " over " in chart["title"]]
    assert [(c["title"], c["told"], c["rows"], c["named"], c["drawn"]) for c in found] == [
        ("accuracy over tokens per second", 5, 5, True, True),
        ("accuracy over size", 5, 5, True, True),
    ]  # fmt: skip
    outside = """[...document.querySelectorAll('.spots')].flatMap(p => {
        const b = p.getBoundingClientRect();
        return [...p.querySelectorAll('.dot, .name')].filter(s => {
            const a = s.getBoundingClientRect();
            return a.left < b.left - 6 || a.right > b.right + 6 ||
                a.top < b.top - 6 || a.bottom > b.bottom + 6 }).map(s => s.textContent) })"""
    assert window.run(outside) == []
    assert window.run("document.documentElement.scrollWidth") == width


def test_a_page_that_breaks_the_rules_is_noticed(opened: tuple[browser.Browser, Path]) -> None:
    window, file = opened
    bad = file.with_name("bad.html")
    bad.write_text("<meta charset=utf-8><img src=missing.png><script>console.error('no')</script>")
    window.open(bad)
    assert window.requests == [bad.as_uri(), bad.with_name("missing.png").as_uri()]
    assert len(window.complaints) == 2
