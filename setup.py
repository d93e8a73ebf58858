"""The example recipes go into wheels; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

LEFT_OUT = shutil.ignore_patterns("build", ".olivebuild", "__pycache__")


class BuildWithExamples(build_py):
    """Copies recipes/ to where `olivebuild init --example` looks for it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            place = Path(self.build_lib) / "olivebuild" / "examples"
            shutil.copytree("recipes", place, ignore=LEFT_OUT, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithExamples})
