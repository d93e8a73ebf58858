"""Regular expressions of an adapter's configuration or a recipe, tried within a time limit.

They are tried on a model's names, before a library runs them there without a limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError, Where
from olivebuild.core.fs.small_files import read_json
from olivebuild.core.time_limit import TooMuch, bounded
from olivebuild.formats import foreign

HINT = (
    "list the names instead, or write it without a repetition inside of a repetition, such as (a+)+"
)


def check(config: Mapping[str, Any], modules: Iterable[str], where: Where | str | None) -> None:
    """Raise InputError for a pattern that can't be read, or takes too long on one of the names.

    Patterns are read as peft reads them.
    """
    names = list(modules)
    for field, pattern, whole in _patterns(config):
        shown = f"{field}: {pattern[:80]!r}"
        try:
            with bounded():
                compiled = re.compile(pattern)
                for name in names:
                    compiled.fullmatch(name) if whole else compiled.match(name)
        except TooMuch as e:
            raise InputError(
                f"{shown} {e} on the model's {len(names)} names", where=where, hint=HINT
            ) from None
        except (re.error, OverflowError) as e:
            raise InputError(
                f"{shown} is no regular expression: {e}", where=where, hint="list the names instead"
            ) from None


def check_adapter(folder: Path, model: Any, *, trust: bool) -> None:
    """Raise InputError for an adapter folder that peft may not load onto a model.

    Its patterns are tried on the names of the model's modules. Without `trust` it may name no
    package to import: a shared cache can hold what another wrote.
    """
    file = folder / "adapter_config.json"
    if not trust:
        foreign.check(foreign.of_adapter_folder(folder), foreign.HINT, str(folder))
    config = read_json(file)
    check(
        config if isinstance(config, dict) else {},
        (name for name, _ in model.named_modules()),
        str(file),
    )


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield (field, pattern, whether it is for the whole name)."""
    for field in ("target_modules", "exclude_modules", "target_parameters"):
        if isinstance(config.get(field), str):
            yield field, config[field], True
    for field in ("rank_pattern", "alpha_pattern"):
        if isinstance(patterns := config.get(field), dict):
            for pattern in patterns:
                yield field, rf"(.*\.)?({pattern})$", False
    if config.get("layers_to_transform") is not None:
        layers = config.get("layers_pattern") or ()
        for pattern in [layers] if isinstance(layers, str) else layers:
            yield "layers_pattern", rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", False
    if isinstance(modules := config.get("modules_to_save"), list):
        for name in modules:
            yield "modules_to_save", rf"(^|.*\.){name}($|\..*)", False
