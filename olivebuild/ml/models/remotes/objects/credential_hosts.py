"""Where credentials may be sent, as a job of continuous integration says.

A recipe names buckets, and whoever opens a pull request can write recipes. Where the variable is
set, credentials of the environment are used for the places in it alone.
"""

from __future__ import annotations

import os

from olivebuild.core.errors import InputError

VARIABLE = "OLIVEBUILD_CREDENTIAL_HOSTS"
"""Places, by blanks or commas: `s3://BUCKET`, `gs://BUCKET`, `az://ACCOUNT`."""


def check(place: str) -> None:
    """Raises InputError for a place that credentials are not to be sent to."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return
    places = [word.rstrip("/") for word in text.replace(",", " ").split()]
    if place not in places:
        raise InputError(
            f"credentials are not sent to {place}",
            hint=f"{VARIABLE} lists where they may go: {', '.join(places)}",
        )
