"""Bills of materials, as CycloneDX's own library reads them."""

from __future__ import annotations

from olivebuild.engine.provenance import cyclonedx
from olivebuild.engine.provenance.lineage import Lineage
from olivebuild.metrics.records import DataMetrics, Metrics, ModelMetrics
from tests.support.verifiers import check_bom


def test_the_bill_of_materials_is_one(lineage: Lineage) -> None:
    row = ModelMetrics(data={"tone": DataMetrics(accuracy=0.9, accuracy_interval=(0.8, 0.95))})
    text = cyclonedx.text(lineage, {"bench": Metrics(models={"adapter": row})})
    document = check_bom(text)
    subject = document["metadata"]["component"]
    assert subject["type"] == "machine-learning-model"
    assert subject["components"][0]["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    card = subject["modelCard"]
    assert card["modelParameters"]["datasets"] == [
        {"ref": "node:tone"},
        {"ref": "file:tone:data/tone.jsonl"},
    ]
    (metric,) = card["quantitativeAnalysis"]["performanceMetrics"]
    assert (metric["type"], metric["value"], metric["slice"]) == ("accuracy", "0.9", "bench: tone")
    assert metric["confidenceInterval"] == {"lowerBound": "0.8", "upperBound": "0.95"}
    # The same again: no time, no random number.
    assert cyclonedx.text(lineage, {"bench": Metrics(models={"adapter": row})}) == text
