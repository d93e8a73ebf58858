"""The example recipes go into wheels; all else is in pyproject.toml."""

import shutil
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# One wheel serves 3.11 and all later Pythons, but those without the lock: they have no stable ABI.
FREE_THREADED = sysconfig.get_config_var("Py_GIL_DISABLED")
OPTIONS = {} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}}
LEFT_OUT = shutil.ignore_patterns("build", ".olivebuild", "__pycache__")


class BuildWithExamples(build_py):
    """Copies recipes/ to where `olivebuild init --example` looks for it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            place = Path(self.build_lib) / "olivebuild" / "examples"
            shutil.copytree("recipes", place, ignore=LEFT_OUT, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithExamples}, options=OPTIONS)
