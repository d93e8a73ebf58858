"""Programs that run where no olivebuild is, and so by the standard library alone."""

from __future__ import annotations

ALONE = ("mlflow_genai.py", "setup_there.py", "standalone.py")
"""Names of the modules that are sent there."""
