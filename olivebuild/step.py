"""Names that kinds of other packages imported before 0.1; they are in `olivebuild.api` now.

This file goes with 0.2.
"""

import warnings

from olivebuild.api.fields import Fields
from olivebuild.api.job import Job
from olivebuild.api.node import Edge, FileInput, Node, Ref
from olivebuild.api.result import Result
from olivebuild.api.step import KINDS, Step, Target, kinds, step_of
from olivebuild.core.errors import Problem

__all__ = [
    "KINDS",
    "Edge",
    "Fields",
    "FileInput",
    "Job",
    "Node",
    "Problem",
    "Ref",
    "Result",
    "Step",
    "Target",
    "kinds",
    "step_of",
]

warnings.warn(
    "import from olivebuild.api: olivebuild.step goes with 0.2", DeprecationWarning, stacklevel=2
)
