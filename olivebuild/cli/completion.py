"""Words that a shell completes: targets of the recipe at hand, commands, folders and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from olivebuild.cli.location import nearest_recipe
from olivebuild.core.errors import RecipeError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MODELS = ("model", "merged", "adapter", "onnx", "onnx-adapter", "choice")
"""The kinds that can be asked."""
Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def targets_at_hand(ctx: click.Context) -> dict[str, str]:
    """Return the kind of each target of the recipe by its name; none where it can't be read.

    The recipe is read and not checked, which takes a third of the time.
    """
    from olivebuild.core.fs.small_files import read_text
    from olivebuild.recipe import document
    from olivebuild.recipe.file import FILE_NAME
    from olivebuild.recipe.matrix import kinds_of_targets

    try:
        folder, file = nearest_recipe(ctx, tells=False)
        path = folder / (file or FILE_NAME)
        return kinds_of_targets(document.parse(read_text(path), path.name))
    except (OSError, ValueError, RecipeError):
        return {}


def items(names: Mapping[str, str], incomplete: str) -> list[CompletionItem]:
    """Return the names that a word may become, each with what it is."""
    # Nothing but a shell's question needs it.
    from click.shell_completion import CompletionItem

    return [CompletionItem(n, help=what) for n, what in names.items() if n.startswith(incomplete)]


def _targets(*kinds: str) -> Completer:
    """Return a completer of targets, of these kinds alone if there are any."""

    def complete(
        ctx: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        targets = targets_at_hand(ctx)
        return items({n: k for n, k in targets.items() if not kinds or k in kinds}, incomplete)

    return complete


complete_targets = _targets()
complete_models = _targets(*MODELS)
complete_data = _targets("dataset")
complete_adapters = _targets("onnx-adapter")


def complete_paths(kind: str) -> Completer:
    """Return a completer that leaves it to the shell: "file" or "dir"."""

    def complete(
        _ctx: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=kind)]

    return complete
