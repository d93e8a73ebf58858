"""Signatures of results in a remote cache: Ed25519 (RFC 8032), by the library cryptography.

Who signs, and whose signatures count, is for the user's own configuration and the environment to
say, never for a recipe, a lock file or the remote cache itself.

    OLIVEBUILD_SIGNING_KEY    the file of a private key; else signing.key in the configuration
    OLIVEBUILD_TRUSTED_KEYS   public keys, by blanks or commas; else the file trusted_keys there
    OLIVEBUILD_REVOKED_KEYS   those that count no more; also lines `revoked KEY` of that file
    OLIVEBUILD_CONFIG         the folder of the configuration; else the platform's
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from olivebuild.cache.remote_records import Signature
from olivebuild.core.errors import InputError, StoreError
from olivebuild.core.fs.files import write_atomically

CONTEXT = b"olivebuild remote result, version 1\n"
"""Begins what is signed, so that a signature is of nothing else."""
PREFIX = "ed25519:"
KEY_FILE, TRUST_FILE = "signing.key", "trusted_keys"
HINT = "the result is made here instead"


def configuration_folder() -> Path:
    """Return the folder of the user's configuration."""
    if folder := os.environ.get("OLIVEBUILD_CONFIG"):
        return Path(folder)
    from platformdirs import user_config_path

    return user_config_path("olivebuild", appauthor=False)


class Signer:
    """Signs with a private key."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self.name = _text_of(key.public_key())

    @staticmethod
    def of_configuration() -> Signer | None:
        """Return the signer that is configured, if one is. Raises InputError for a bad key."""
        named = os.environ.get("OLIVEBUILD_SIGNING_KEY")
        file = Path(named) if named else configuration_folder() / KEY_FILE
        if not named and not file.is_file():
            return None
        try:
            return Signer(_load(file.read_bytes()))
        except (OSError, ValueError, TypeError) as e:
            raise InputError(
                f"the signing key can't be read: {getattr(e, 'strerror', None) or e}",
                where=str(file),
                hint="`olivebuild remote keygen` makes one",
            ) from None

    def sign(self, body: bytes) -> Signature:
        now = round(time.time(), 3)
        signed = self.signature(_message(self.name, now, body))
        return Signature(
            signer=self.name, time=now, signature=base64.b64encode(signed).decode("ascii")
        )

    def signature(self, message: bytes) -> bytes:
        """Return the 64 bytes of a signature of a message that says itself what it is."""
        signed: bytes = self._key.sign(message)
        return signed


class Trust(Struct, frozen=True, kw_only=True):
    """The public keys whose signatures count, and those whose do no more."""

    trusted: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()

    @property
    def is_on(self) -> bool:
        """Whether results must be signed: it is so where somebody is trusted, or was."""
        return bool(self.trusted or self.revoked)

    @staticmethod
    def of_configuration() -> Trust:
        """Return what is configured. Raises InputError for a key that is none."""
        file = configuration_folder() / TRUST_FILE
        trusted, revoked = _words("OLIVEBUILD_TRUSTED_KEYS"), _words("OLIVEBUILD_REVOKED_KEYS")
        lines = file.read_text("utf-8").splitlines() if file.is_file() else []
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if words[:1] == ["revoked"] and len(words) > 1:
                revoked.append(words[1])
            elif words:
                trusted.append(words[0])
            if words:
                _check(words[1] if words[0] == "revoked" else words[0], f"{file}:{number}")
        for key in (*trusted, *revoked):
            _check(key, "environment")
        return Trust(trusted=frozenset(trusted), revoked=frozenset(revoked))

    def check(self, signature: Signature, body: bytes) -> None:
        """Raises StoreError unless a body is signed by someone whose signature counts."""
        if not self.is_on:
            return
        if not signature.signer:
            raise StoreError("it is not signed", hint=HINT)
        short = signature.signer[:20]
        if signature.signer in self.revoked:
            raise StoreError(f"it is signed by {short}..., which is revoked", hint=HINT)
        if signature.signer not in self.trusted:
            raise StoreError(f"it is signed by {short}..., which is not trusted here", hint=HINT)
        if not _is_valid(signature, body):
            raise StoreError(f"its signature by {short}... is not right", hint=HINT)


def keygen() -> tuple[Path, str]:
    """Make a signing key in the configuration; return its file and the public key.

    One that is there stays. Raises InputError for one that can't be read.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    file = configuration_folder() / KEY_FILE
    if not file.is_file():
        text = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(file, text, 0o600)
    return file, Signer(_load(file.read_bytes())).name


def _load(text: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(text, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is no Ed25519 key")
    return key


def _text_of(key: Any) -> str:
    return PREFIX + base64.b64encode(key.public_bytes_raw()).decode("ascii")


def _public(text: str) -> Any:
    """Return a public key. Raises ValueError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not text.startswith(PREFIX):
        raise ValueError("it does not begin with ed25519:")
    return Ed25519PublicKey.from_public_bytes(
        base64.b64decode(text.removeprefix(PREFIX), validate=True)
    )


def _is_valid(signature: Signature, body: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        signed = base64.b64decode(signature.signature, validate=True)
        _public(signature.signer).verify(signed, _message(signature.signer, signature.time, body))
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def _message(signer: str, when: float, body: bytes) -> bytes:
    return CONTEXT + f"{signer}\n{when!r}\n".encode() + body


def _words(variable: str) -> list[str]:
    return os.environ.get(variable, "").replace(",", " ").split()


def _check(key: str, where: str) -> None:
    try:
        _public(key)
    except (ValueError, binascii.Error):
        raise InputError(
            f"{key[:60]!r} is no public key", where=where, hint="write ed25519:BASE64"
        ) from None


if __name__ == "__main__":
    print(*keygen(), sep="\n")
