"""Signatures of results: whose count, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from olivebuild.cache.remote_records import Signature
from olivebuild.core.errors import InputError, StoreError
from olivebuild.ml.transfer.signing import Signer, Trust, keygen

BODY = b'{"trace": {}}'


@pytest.fixture
def signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signer:
    monkeypatch.setenv("OLIVEBUILD_CONFIG", str(tmp_path / "config"))
    file, key = keygen()
    assert file.stat().st_mode & 0o777 == 0o600
    assert keygen() == (file, key)
    made = Signer.of_configuration()
    assert made
    assert made.name == key
    return made


def test_a_trusted_signature_counts(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEBUILD_TRUSTED_KEYS", signer.name)
    Trust.of_configuration().check(signer.sign(BODY), BODY)


def test_without_trusted_keys_nothing_is_asked_for(signer: Signer) -> None:
    trust = Trust.of_configuration()
    assert not trust.is_on
    trust.check(Signature(), BODY)


@pytest.mark.parametrize(
    ("change", "body", "why"),
    [
        ({}, BODY + b" ", "is not right"),
        ({"time": 1.0}, BODY, "is not right"),
        ({"signature": "AAAA"}, BODY, "is not right"),
        ({"signature": "not base64"}, BODY, "is not right"),
        ({"signer": "ed25519:AAAA"}, BODY, "not trusted"),
        ({"signer": ""}, BODY, "not signed"),
    ],
)
def test_others_do_not(signer: Signer, change: dict[str, object], body: bytes, why: str) -> None:
    signature = structs.replace(signer.sign(BODY), **change)
    with pytest.raises(StoreError, match=why):
        Trust(trusted=frozenset([signer.name])).check(signature, body)


def test_a_revoked_signer_counts_no_more(signer: Signer, tmp_path: Path) -> None:
    file = tmp_path / "config" / "trusted_keys"
    file.write_text(f"{signer.name}  # the build machine\n")
    Trust.of_configuration().check(signer.sign(BODY), BODY)
    file.write_text(f"{signer.name}\nrevoked {signer.name}\n")
    with pytest.raises(StoreError, match="revoked"):
        Trust.of_configuration().check(signer.sign(BODY), BODY)


def test_what_is_no_key_is_an_error_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEBUILD_CONFIG", str(tmp_path))
    (tmp_path / "trusted_keys").write_text("# keys\nssh-ed25519 AAAA\n")
    with pytest.raises(InputError, match="no public key") as e:
        Trust.of_configuration()
    assert str(e.value.where).endswith("trusted_keys:2")
    (tmp_path / "trusted_keys").unlink()
    (tmp_path / "signing.key").write_text("nothing")
    with pytest.raises(InputError, match="signing key can't be read"):
        Signer.of_configuration()
