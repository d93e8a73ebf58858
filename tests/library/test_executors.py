"""The executor that a build is told to run on."""

from __future__ import annotations

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.executors.local import LocalExecutor
from olivebuild.library.executors import BuildOptions, open_executor


def options(executor: str = "local") -> BuildOptions:
    return BuildOptions(jobs=1, keep_going=False, resources=(), executor=executor)


def test_without_a_name_this_machine_runs_steps() -> None:
    assert isinstance(open_executor(options()), LocalExecutor)
    assert isinstance(open_executor(options("")), LocalExecutor)


def test_this_machine_runs_what_an_executor_of_the_recipe_does_not() -> None:
    assert isinstance(open_executor(options("box"), lambda: ("box",)), LocalExecutor)


@pytest.mark.parametrize(
    ("name", "fact", "hint"),
    [
        ("local:there", "the executor local has no places, but was given 'there'", "write local"),
        ("lokal", "there is no executor 'lokal'", "local"),
        ("bex", "there is no executor 'bex'", "did you mean box?"),
        ("box:there", "there is no executor 'box'", "box"),
    ],
)
def test_an_executor_that_there_is_not_is_an_error(name: str, fact: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        open_executor(options(name), lambda: ("box",))
    assert caught.value.fact == fact
    assert str(caught.value.where) == "--executor"
    assert hint in caught.value.hint
