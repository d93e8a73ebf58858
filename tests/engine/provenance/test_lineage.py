"""Documents about targets that were built, by the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.conftest import Place
from tests.support.verifiers import check_bom, check_statement, opened_envelope

RECIPE = """\
targets:
  first: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
  last: {kind: command, run: "cp {inputs.first} {outputs.y}", inputs: {first: first.x},
         outputs: {y: y.txt}}
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_target_that_is_built_has_a_statement(place: Place) -> None:
    place.environment["OLIVEBUILD_CONFIG"] = str(place.folder.parent / "config")
    place.recipe.write_text(RECIPE)
    (place.folder / "in.txt").write_text("text")
    done = place.run("provenance", "last")
    assert done.code != 0
    assert "has no result" in done.err
    place.build("last")
    done = place.run("provenance", "last", "--sign")
    assert "no signing key" in done.err
    key = place.run("remote", "keygen").out.split()[-1]
    signed = place.run("provenance", "last", "--sign")
    text = opened_envelope(signed.out, key)
    assert text == place.run("provenance", "last").out
    predicate = check_statement(text)
    (subject,) = json.loads(text)["subject"]
    assert subject == {
        "name": "last/y.txt",
        "digest": {"sha256": sha256(place.folder / "build/last/y.txt")},
    }
    dependencies = predicate["buildDefinition"]["resolvedDependencies"]
    digests = {d["name"]: d.get("digest") for d in dependencies}
    assert digests["in.txt"] == {"sha256": sha256(place.folder / "in.txt")}
    assert digests["olivebuild.yaml"] == {"sha256": sha256(place.recipe)}
    steps = predicate["buildDefinition"]["internalParameters"]["steps"]
    assert [step["name"] for step in steps] == ["first", "last"]
    assert steps[1]["inputs"] == {"first": "first"}
    (place.folder / "build/last/y.txt").unlink()
    assert "is not in build/" in place.run("provenance", "last").err


@pytest.mark.scenario
def test_a_model_has_a_bill_of_materials(copied: Place) -> None:
    copied.build("onnx-int4")
    out = copied.folder / "bom.json"
    done = copied.run("provenance", "onnx-int4", "--format", "cyclonedx", "--out", str(out))
    assert done.code == 0, done.err
    document = check_bom(out.read_text())
    subject = document["metadata"]["component"]
    built = copied.folder / "build/onnx-int4"
    hashes = {c["name"]: c["hashes"][0]["content"] for c in subject["components"]}
    assert hashes == {p.name: sha256(p) for p in built.iterdir()}
    kinds = {c["name"]: c["type"] for c in document["components"]}
    assert kinds["adapter"] == kinds["merged"] == "machine-learning-model"
    assert kinds["tone"] == "data"
    assert kinds["torch"] == "library"
    check_statement(copied.run("provenance", "onnx-int4").out)
