"""Programs of others that read what `olivebuild provenance` writes."""

from __future__ import annotations

import base64
import json
from typing import Any

PROVENANCE = "https://slsa.dev/provenance/v1"


def check_statement(text: str) -> dict[str, Any]:
    """Return the predicate of an in-toto statement, by in-toto's own library and SLSA's schema."""
    from google.protobuf.json_format import Parse, ParseDict
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    message = Parse(text, Message())
    statement = Statement.copy_from_pb(message)
    statement.validate()
    assert message.predicate_type == PROVENANCE
    predicate: dict[str, Any] = json.loads(text)["predicate"]
    parsed = ParseDict(predicate, provenance_pb2.Provenance())
    assert parsed.build_definition.build_type
    assert parsed.run_details.builder.id
    for dependency in parsed.build_definition.resolved_dependencies:
        ResourceDescriptor.copy_from_pb(dependency).validate()
    return predicate


def opened_envelope(text: str, public_key: str) -> str:
    """Return what a DSSE envelope holds, whose signature securesystemslib has checked."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer._key import SSlibKey

    envelope = Envelope.from_dict(json.loads(text))
    public = base64.b64decode(public_key.removeprefix("ed25519:")).hex()
    (identifier,) = envelope.signatures
    key = SSlibKey(identifier, "ed25519", "ed25519", {"public": public})
    assert envelope.verify([key], 1)
    assert envelope.payload_type == "application/vnd.in-toto+json"
    return bytes(envelope.payload).decode()


def check_bom(text: str) -> dict[str, Any]:
    """Return an ML-BOM that CycloneDX's own library has checked against its strict schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document: dict[str, Any] = json.loads(text)
    references = _references(document)
    assert len(references) == len(set(references)), "two components of one reference"
    for dependency in document["dependencies"]:
        assert {dependency["ref"], *dependency["dependsOn"]} <= set(references)
    return document


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        here = [value["bom-ref"]] if "bom-ref" in value else []
        return here + [r for item in value.values() for r in _references(item)]
    return [r for item in value for r in _references(item)] if isinstance(value, list) else []
