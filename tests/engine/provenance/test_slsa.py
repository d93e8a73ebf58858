"""Statements, as in-toto's own library reads them."""

from __future__ import annotations

from olivebuild.engine.provenance import slsa
from olivebuild.engine.provenance.lineage import Lineage
from tests.engine.provenance.conftest import COMMIT
from tests.support.verifiers import check_statement


def test_the_statement_is_one(lineage: Lineage) -> None:
    predicate = check_statement(slsa.text(lineage))
    definition = predicate["buildDefinition"]
    assert definition["externalParameters"] == {"recipe": "olivebuild.yaml", "target": "adapter"}
    dependencies = {d["name"]: d for d in definition["resolvedDependencies"]}
    assert dependencies["data/tone.jsonl"]["digest"] == {"sha256": "4" * 64}
    assert dependencies["base"]["digest"] == {"gitCommit": COMMIT}
    assert dependencies["a.bin"]["digest"] == {"sha256": "3" * 64}
    assert dependencies["torch"]["uri"] == "pkg:pypi/torch@2.9.0"
    assert predicate["runDetails"]["metadata"]["finishedOn"] == "2026-11-20T10:00:00Z"
