"""The ledger: each leaf of a file in exactly one list, and nothing without a word."""

from __future__ import annotations

from olivebuild.recipe.importers.olive.ledger import Fate, Ledger
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.positions import Document, Placeholder, parse

TEXT = """{
  "a": {"r": 8, "alpha": "x", "names": ["q", "v"], "empty": []},
  "b": {"lora_rr": 8, "slot": "<slot>"}
}"""


def ledger_of(text: str) -> tuple[Document, Ledger]:
    document = parse(text, "f.json")
    return document, Ledger(document)


def test_what_nobody_claims_is_refused_with_its_line() -> None:
    document, ledger = ledger_of(TEXT)
    ledger.mapped(("a", "r"), "adapter.r")
    ledger.no_effect(("a",), "because of a")
    ledger.unknown(("b",), ["lora_r", "lora_alpha"])
    entries = ledger.close()
    assert [entry.path for entry in entries] == list(document.leaves())
    by_path = {entry.path: entry for entry in entries}
    assert by_path["a", "r"].fate is Fate.MAPPED
    assert by_path["a", "names", 1].fate is Fate.NO_EFFECT
    unknown = by_path["b", "lora_rr"]
    assert (unknown.fate, unknown.line, unknown.fatal) == (Fate.REFUSED, 3, True)
    assert unknown.text == "unknown field 'lora_rr'"
    assert unknown.hint == "did you mean lora_r?"
    assert by_path["b", "slot"].placeholder


def test_the_greater_of_two_claims_stands() -> None:
    _, ledger = ledger_of('{"a": 1, "b": 2}')
    ledger.mapped(("a",), "one.x")
    ledger.mapped(("a",), "two.x")
    ledger.mapped(("a",), "one.x")
    ledger.no_effect(("a",), "no")
    ledger.no_effect(("b",), "no")
    ledger.refused(("b",), "wrong", "mend it")
    first, second = ledger.close()
    assert first.field == "one.x, two.x"
    assert (second.fate, second.text) == (Fate.REFUSED, "wrong")


def test_a_refusal_is_never_lost_behind_other_claims() -> None:
    _, ledger = ledger_of(TEXT)
    ledger.mapped(("b", "lora_rr"), "adapter.r")
    ledger.mapped(("b", "slot"), "adapter.slot")
    ledger.refused(("b",), "no `alpha`", "write one")
    ledger.refused(("b",), "no `beta`", "write one")
    assert [(e.path, e.text) for e in ledger.refusals()] == [(("b", "lora_rr"), "no `alpha`")]


def test_a_section_reads_by_type() -> None:
    _, ledger = ledger_of('{"i": 3, "f": 2, "w": 2.0, "s": "x", "n": null, "p": "<p>", "t": true}')
    value = ledger.document.value
    assert isinstance(value, dict)
    section = Section(ledger, (), value)
    assert section.get("i", int) == 3
    assert section.get("f", float) == 2.0
    assert section.get("w", int) == 2
    assert section.get("n", int) is None
    assert section.get("missing", str) is None
    assert section.get("p", int) == Placeholder("p")
    assert section.get("t", int) is None
    assert section.get("s", float) is None
    assert section.section("s") is None
    assert section.texts("s") == ["x"]
    assert [entry.text for entry in ledger.refusals()] == [
        "t is true where a whole number must stand",
        "s is text where a number must stand",
    ]
