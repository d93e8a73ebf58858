"""Where each model of a benchmark comes from: by it diagnostics know what to compare."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class Lineage(Struct, frozen=True, kw_only=True):
    """The origin of one model of a benchmark.

    `source` is the nearest model of the same benchmark that it was made from, "" for none.
    `trained_on` are the data sets whose training rows it has seen. `precision` is that of a
    conversion whose source stands beside it, so that the two differ by nothing else; else "".
    """

    source: str = ""
    trained_on: tuple[str, ...] = ()
    precision: str = ""


Lineages = Mapping[str, Lineage]


def judged_of(models: Mapping[str, object], lineages: Lineages) -> list[str]:
    """Return the models that are judged for themselves: the trained ones, or all if none is.

    A base beside what was trained from it is there to be compared with.
    """
    trained = [name for name in models if name in lineages and lineages[name].trained_on]
    return trained or list(models)


def ancestors(name: str, lineages: Lineages) -> list[str]:
    """Return the models of the benchmark that one was made from, the nearest first."""
    chain: list[str] = []
    while name in lineages and (name := lineages[name].source) and name not in chain:
        chain.append(name)
    return chain
