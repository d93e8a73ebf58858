"""Pages of good and bad builds and of some not decided, at the widths of a desk, a tablet and a
phone: nothing is wider than its window, no word is broken, no labels lie over each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.ui.report.collect.report import collect
from olivebuild.ui.report.records import Bench, Confusion, Flip, Label, Report
from olivebuild.ui.report.render import html as page
from olivebuild.ui.report.render import junit, markdown
from tests.conftest import Place
from tests.support import browser, page_rules, pretend
from tests.support.require import require

WIDTHS = (1280, 768, 390)
GATES = {
    "good": '"accuracy >= 0.2", "size <= 150MB"',
    "bad": '"accuracy >= 0.95", "accuracy drop vs merged <= 0.02", "ttft_p95 <= 1ms"',
    "undecided": '"accuracy >= 0.7", "size <= 150MB"',
}
HEADLINES = {
    "good": "Ship: all 2 gates met",
    "bad": "Do not ship: 3 missed",
    "undecided": "Not decided: 1 met, 1 not decided",
}
SETS = (1, 3)


@pytest.fixture(scope="module", params=SETS)
def reports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Report]:
    """Reports of six models on one and three data sets, after two builds, by outcome."""
    root = tmp_path_factory.mktemp("pages")
    place = Place(root / "tone", root / "cache")
    place.folder.mkdir()
    pretend.write_recipe(place, pretend.wide(GATES["good"], request.param))
    pretend.build(place, 1)
    place.edit("steps: 60", "steps: 61")
    pretend.build(place, 2, lost=0.35)
    found, gates = {}, GATES["good"]
    for outcome, others in GATES.items():
        place.edit(gates, others)
        gates = others
        project = pretend.opened(place)
        found[outcome] = collect(project, project.planner.plan(project.graph.all_goals))
        project.planner.traces.close()
    return found


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[browser.Browser, Path]]:
    require("chromium", browser.PROGRAM, "no chromium is installed")
    folder = tmp_path_factory.mktemp("browser")
    with browser.browser(folder / "profile") as opened:
        yield opened, folder / "page.html"


def broken(window: tuple[browser.Browser, Path], report: Report) -> dict[object, object]:
    """Return what breaks a rule, by width, folded and unfolded."""
    opened, file = window
    file.write_text(page.render(report), "utf-8")
    found: dict[object, object] = {}
    for width in WIDTHS:
        opened.look(width, phone=width < 400)
        opened.open(file)
        assert opened.run("innerWidth") == width
        for state, code in (("folded", "0"), ("unfolded", page_rules.OPEN)):
            opened.run(code)
            if places := page_rules.broken_rules(opened.run):
                found[width, state] = places
    return found


@pytest.mark.parametrize("outcome", list(GATES))
def test_a_page_fits_its_window(
    reports: dict[str, Report], window: tuple[browser.Browser, Path], outcome: str
) -> None:
    report = reports[outcome]
    assert report.decision.headline == HEADLINES[outcome]
    assert len(report.benches[0].models) == 6
    assert broken(window, report) == {}


@pytest.mark.parametrize("outcome", list(GATES))
def test_all_forms_lead_with_the_decision(reports: dict[str, Report], outcome: str) -> None:
    report, headline = reports[outcome], HEADLINES[outcome]
    shown, text, xml = page.render(report), markdown.render(report), junit.render(report)
    assert shown.index(headline) < shown.index("<main>")
    assert text.splitlines()[2].startswith(f"**{headline}**")
    assert f'name="decision" value="{headline}"' in xml
    [artefact] = report.decision.artefacts
    assert artefact.target == pretend.LONG
    assert (artefact.path, artefact.is_there) == (f"build/{pretend.LONG}", True)
    assert re.fullmatch("[0-9a-f]{32}", artefact.digest)
    assert artefact.digest in shown
    assert artefact.digest in text
    assert artefact.digest in xml
    shipped = report.decision.shipped
    assert shipped
    assert (shipped.build, shipped.causes) == (1, ("parameter training.steps: 60 -> 61",))
    assert [c.figure for c in shipped.changes][-1] == "size"
    assert "Since build 1, the last that met all its gates" in shown
    assert "Since build 1, the last that met all its gates" in text
    assert text.count("**missed** ❌") == (3 if outcome == "bad" else 0)
    assert text.count("| **not decided** ⚠️ |") == (1 if outcome == "undecided" else 0)
    for gate in report.gates:
        for form in (shown, text, xml):
            words = gate.note.replace(" %", "\u00a0%").replace(" points", "\u00a0points")
            assert gate.note in form or words in form


def test_diagnostics_stand_below_the_decision(
    reports: dict[str, Report], window: tuple[browser.Browser, Path]
) -> None:
    problem = Diagnostic(
        code="one-label",
        severity="error",
        text=f"{pretend.LONG} answers joy to 98.0 % of the rows of tickets_from_production_2026",
        hint="look at the labels of the training rows",
    )
    doubt = Diagnostic(code="loss-falling", severity="warning", text="the loss still falls")
    report = replace(reports["good"], diagnostics=(problem, doubt))
    assert broken(window, report) == {}
    opened, _ = window
    banner = "document.querySelector('.banner.error')"
    assert opened.run(f"{banner}.previousElementSibling.id") == "decision"
    assert opened.run(f"[...{banner}.querySelectorAll('li')].map(e => e.className)") == [
        "error",
        "warning",
    ]
    text = markdown.render(report)
    assert "- the loss still falls" in text
    assert "look at the labels of the training rows" in text
    assert 'name="diagnostic.error"' in junit.render(report)
    warned = page.render(replace(report, diagnostics=(doubt,)))
    assert '<section class="banner warning"' in warned


def stretched(bench: Bench) -> Bench:
    """Return a benchmark with names, labels and answers of great length and number."""
    labels = tuple(f"{'unreasonably long label' if i % 5 else 'short'} {i}" for i in range(24))
    counts = tuple(tuple(1000 * (i == j) + (i * j) % 7 for j in range(24)) for i in range(24))
    rows = tuple(
        Label(name=name, rows=12345, precision=0.5, recall=1.0, f1=0.25) for name in labels
    )
    answer = '{"city":"Donaudampfschifffahrt","date":"2026-11-28","amount_in_cents":123456}'
    models = tuple(
        replace(
            model,
            name=f"model_of_a_very_long_name.{i}/{'x' * 60}",
            sets={
                name: replace(judged, labels=rows, confusion=Confusion(labels, counts))
                for name, judged in model.sets.items()
            },
        )
        for i, model in enumerate(bench.models)
    )
    flips = tuple(
        replace(
            f,
            columns=tuple(m.name for m in models),
            rows=tuple(
                Flip(
                    number=row.number,
                    text="https://example.org/a/long/path?with=many&parameters=of_all_kinds",
                    expected=answer,
                    replies=tuple(replace(reply, text=answer) for reply in row.replies),
                )
                for row in (f.rows + f.others)[:3]
            ),
        )
        for f in bench.flips
    )
    return replace(bench, models=models, flips=flips, turned=())


@pytest.mark.parametrize("reports", [3], indirect=True)
def test_names_and_answers_of_any_length_fit(
    reports: dict[str, Report], window: tuple[browser.Browser, Path]
) -> None:
    bad = reports["bad"]
    targets = tuple(
        replace(t, facts={"source": f"hf:organisation/{t.name}@{'0123456789abcdef' * 3}"})
        for t in bad.targets
    )
    benches = tuple(map(stretched, bad.benches))
    report = replace(bad, benches=benches, targets=targets, name="a_project_" * 8)
    assert broken(window, report) == {}


def test_a_choice_of_long_names_fits(tmp_path: Path, window: tuple[browser.Browser, Path]) -> None:
    place = Place(tmp_path / "tone", tmp_path / "cache")
    place.folder.mkdir()
    text = pretend.wide(GATES["good"]) + (
        '  best: {kind: choice, by: bench, best: accuracy, gates: ["accuracy >= 0.5", '
        '"size <= 500MB"]}\n'
    )
    pretend.write_recipe(place, text)
    pretend.build(place, 1)
    project = pretend.opened(place)
    report = collect(project, project.planner.plan(project.graph.all_goals))
    project.planner.traces.close()
    [choice] = report.choices
    assert len(choice.contenders) == 6
    [artefact] = report.decision.artefacts
    assert (artefact.target, artefact.chosen, artefact.path) == ("best", choice.best, "build/best")
    assert broken(window, report) == {}


@pytest.mark.parametrize(
    ("rule", "markup"),
    [
        ("wider", "<div style='width:1300px'>x</div>"),
        ("scrolled", "<div style='width:90px;overflow-x:auto;white-space:nowrap'>a b c d e f g "
        "h i j k l m n o p q r</div>"),
        ("broken", "<p style='width:3em;overflow-wrap:anywhere'>incomprehensible</p>"),
        ("numbers", "<p style='width:3em;overflow-wrap:anywhere'>123,456,789,012</p>"),
        ("overlapping", "<div class=axis><span>one</span><span style='margin-left:-9px'>two"
        "</span></div>"),
        ("labelled", "<table><tr><td style='display:block'>x</td></tr></table>"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_noticed(
    window: tuple[browser.Browser, Path], rule: str, markup: str
) -> None:
    opened, file = window
    bad = file.with_name("bad.html")
    bad.write_text(f"<meta charset=utf-8><body>{markup}", "utf-8")
    opened.look(1280)
    opened.open(bad)
    assert opened.run(page_rules.RULES[rule]) != []
