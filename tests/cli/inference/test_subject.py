"""The model that is asked, with the adapters in its slots."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from olivebuild.cli.inference.serve import _asked, fingerprint
from olivebuild.cli.inference.subject import Asking, Subject, _subject
from olivebuild.planner.project import open_graph

RECIPE = """\
targets:
  base: {kind: model, source: nowhere}
  int4: {kind: onnx, model: base, slots: all-linear}
  tone: {kind: onnx-adapter, base: int4, source: a}
  legal: {kind: onnx-adapter, base: int4, source: b}
"""
DATES = {"int4": "", "tone": "", "legal": "2026-01-02"}
"""The template that one adapter brings reads the clock, and its base's does not."""
OPTIONS = Asking(settings=(), as_is=True, build=False, data=None, max_tokens=4)


def subject(folder: Path, target: str, **digests: str) -> Subject:
    """Return a target as it is asked with both adapters."""
    (folder / "olivebuild.yaml").write_text(RECIPE)
    dating = SimpleNamespace(date_of=lambda name, _: DATES[name])
    planner = SimpleNamespace(dating=dating)
    project: Any = SimpleNamespace(graph=open_graph(folder, None), planner=planner)
    goals = list(dict.fromkeys(["int4", target, "tone", "legal"]))
    places = [(folder / name, digests.get(name, f"{name}-digest")) for name in goals]
    return _subject(project, target, goals, places, cast("Any", SimpleNamespace(lookups={})))


def test_each_template_is_told_its_own_date(tmp_path: Path) -> None:
    for target in ("int4", "legal"):
        settings = _asked(subject(tmp_path, target), {target: None}, OPTIONS)
        assert settings.template_date == ""
        assert settings.adapters == {
            "tone": (str(tmp_path / "tone"), ""),
            "legal": (str(tmp_path / "legal"), "2026-01-02"),
        }


def test_a_fingerprint_is_of_all_that_answers(tmp_path: Path) -> None:
    first = subject(tmp_path, "int4")
    prints = {name: fingerprint(first.digests_of(name)) for name in ("int4", "tone", "legal")}
    assert len({*prints.values(), None}) == 4
    # The same, whichever target of a model is named.
    assert fingerprint(subject(tmp_path, "tone").digests_of("tone")) == prints["tone"]
    # The weights below an adapter are other ones.
    other = subject(tmp_path, "tone", int4="another")
    assert fingerprint(other.digests_of("tone")) not in {*prints.values(), None}
    unknown = subject(tmp_path, "tone", int4="")
    assert fingerprint(unknown.digests_of("tone")) is None
    assert fingerprint(unknown.digests_of("legal")) is None
