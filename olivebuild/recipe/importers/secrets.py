"""Secrets in configurations, by the names of fields and by the forms of values, to be hidden."""

from __future__ import annotations

import re

HIDDEN = "(hidden)"
_NAMES = (
    "token|secrets?|password|passwd|passphrase|credentials?|(?:api|account|access|shared)_?key|sas"
)
FIELD = re.compile(rf"(?:^|[_-])(?:{_NAMES})$", re.IGNORECASE)
"""A field whose text is a secret."""
_FORMS = re.compile(
    r"([?&]sig=|AccountKey=|SharedAccessSignature=)[^&;\s\"]+"
    r"|(://[^/\s:@\"]*:)[^/\s@\"]+(?=@)"
    r"|hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{12,}|eyJ[\w-]{16,}[\w.-]*"
)
"""Shared access signatures and keys of Azure, passwords in URLs, tokens of Hugging Face and others,
keys of AWS, JSON web tokens.
"""
_LINE = re.compile(rf'("(?:[\w-]*[_-])?(?:{_NAMES})"\s*:\s*)"(?:[^"\\]|\\.)+"', re.IGNORECASE)


def hide(text: str) -> str:
    """Return text with what has the form of a secret hidden."""
    return _FORMS.sub(lambda m: (m[1] or m[2] or "") + HIDDEN, text)


def hide_in_line(line: str) -> str:
    """Return a line of JSON without secrets: those by form, and text of fields that name one."""
    return hide(_LINE.sub(rf'\1"{HIDDEN}"', line))
