"""Gates as JUnit XML: a suite for each benchmark, a case for each gate."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from olivebuild.core.text import clean
from olivebuild.ui.report.records import Gate, Report


def _is_open(gate: Gate) -> bool:
    """Tell whether a gate is neither passed nor failed: what JUnit calls skipped."""
    return gate.state == "undecided" and not gate.fails


def _tell_decision(suite: ElementTree.Element, report: Report) -> None:
    """Add the decision, its artefacts and the diagnostics as properties of a suite."""
    decision = report.decision
    facts = [("decision", decision.headline)]
    for artefact in decision.artefacts:
        facts += [("artefact", artefact.path), ("digest", artefact.digest)]
    facts += [(f"diagnostic.{d.severity}", d.text) for d in report.diagnostics]
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in facts:
        ElementTree.SubElement(properties, "property", name=name, value=clean(value))


def render(report: Report) -> str:
    """Return the document. Targets that dropped rows are suites without cases."""
    failures = sum(g.fails for g in report.gates)
    root = ElementTree.Element(
        "testsuites", name="olivebuild", tests=str(len(report.gates)), failures=str(failures)
    )
    for target in dict.fromkeys(g.target for g in report.gates):
        gates = [g for g in report.gates if g.target == target]
        missed = sum(g.fails for g in gates)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=clean(target),
            tests=str(len(gates)),
            failures=str(missed),
            skipped=str(sum(_is_open(g) for g in gates)),
            timestamp=report.time.rstrip("Z"),
        )
        _tell_decision(suite, report)
        for gate in gates:
            case = ElementTree.SubElement(
                suite, "testcase", classname=clean(f"{report.name}.{target}"), name=clean(gate.text)
            )
            message = clean(f"{gate.text}: {gate.value}")
            if gate.fails:
                if gate.state == "undecided":
                    message += f", {gate.word}"
                failure = ElementTree.SubElement(case, "failure", message=message, type="gate")
                failure.text = clean(gate.note) or None
            elif _is_open(gate):
                note = f", {clean(gate.note)}" if gate.note else ""
                ElementTree.SubElement(case, "skipped", message=f"{message}, {gate.word}{note}")
            else:
                note = f", {clean(gate.note)}" if gate.note else ""
                told = ElementTree.SubElement(case, "system-out")
                told.text = f"{message}, {gate.word}{note}"
    for target, line in report.dropped:
        # No gate, and no failure: what lost too many rows does not build.
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=clean(target),
            tests="0",
            failures="0",
            timestamp=report.time.rstrip("Z"),
        )
        ElementTree.SubElement(suite, "system-out").text = clean(line)
    ElementTree.indent(root)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        + ElementTree.tostring(root, encoding="unicode")
        + "\n"
    )
