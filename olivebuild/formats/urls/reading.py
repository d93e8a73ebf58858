"""URLs as recipes write them -> the scheme of their kind, and the name that it fetches by."""

from __future__ import annotations

from olivebuild.core.errors import InvalidValue
from olivebuild.formats import object_urls
from olivebuild.formats.urls import azureml_uri


def read(text: str) -> tuple[str, str] | None:
    """Return (scheme, name), or None for a URL of another form. Raises InvalidValue."""
    scheme, _, rest = text.partition(":")
    if scheme == "azureml":
        is_model = isinstance(azureml_uri.parse(text), azureml_uri.Model)
        return "azureml-model" if is_model else "azureml", rest.removeprefix("//")
    if scheme in ("https", "http"):
        return _web(text)
    readers = {
        "az": ("az", object_urls.azure),
        "abfss": ("az", object_urls.azure_file_system),
        "s3": ("s3", object_urls.bucket),
        "gs": ("gs", object_urls.bucket),
    }
    kind, reader = readers[scheme]
    name = reader(rest)
    return (kind, name) if name else None


def _web(text: str) -> tuple[str, str] | None:
    try:
        if name := object_urls.azure_web(text):
            return "az", name
        url = object_urls.web(text)
    except InvalidValue:
        raise
    except ValueError:
        # An address or a port that can't be one.
        return None
    return ("https", url) if url else None
