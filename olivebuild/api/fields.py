"""Types of which the fields of a kind are made. A part of the interface for kinds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Fields(BaseModel):
    """The recipe fields of a kind. Unknown keys are errors, and numbers are not made from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
