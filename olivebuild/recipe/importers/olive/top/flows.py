"""Flows of a workflow: which passes run after each other, where, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.draft import Ref
from olivebuild.recipe.importers.olive.passes import registry
from olivebuild.recipe.importers.olive.providers import read_accelerators
from olivebuild.recipe.importers.olive.section import Section, config_of
from olivebuild.recipe.importers.olive.tell_tales import BESIDE_OPTIONS
from olivebuild.recipe.importers.olive.top.engine import Engine
from olivebuild.recipe.importers.olive.top.systems import System, Systems, hardware_of
from olivebuild.recipe.importers.olive.workflow import Hardware, Pass, State, Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder

MOST_FLOWS = 64
Skipped = tuple[int, str | Placeholder]
"""The number of a flow, and a provider."""
BESIDE = {
    "clean_run_cache": "what was made is never made again, by digests of all it is made from",
    "output_name": "every target has a folder in build/",
    "disable_search": "only what the file lists as alternatives is chosen from",
    "accelerator": "Olive filled it in by itself",
    "host_device": "Olive filled it in by itself",
}
"""Fields of a pass beside its options that change nothing here."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Passes that run after each other."""

    names: tuple[tuple[str, Path | None], ...]
    """Names of passes, and the leaves that name them; None if nothing does."""
    host: System | None = None
    host_path: Path | None = None
    target: System | None = None
    name: str = ""
    """Of one of several builds."""


@dataclass(kw_only=True)
class Flows:
    """The mapping of passes, and what came of it."""

    workflow: Workflow
    engine: Engine
    systems: Systems
    entries: dict[str, list[Section]] = field(default_factory=dict)
    """The alternatives of each pass."""
    results: list[State] = field(default_factory=list)
    skipped: dict[Skipped, str] = field(default_factory=dict)
    """What no model comes of, as a mapping before found, and the reason."""
    failed: dict[Skipped, str] = field(default_factory=dict)
    """What to skip in another mapping: other providers of the flow have a model."""
    _cache: dict[tuple[object, ...], State] = field(default_factory=dict)

    def run(self, start: State) -> None:
        """Map all flows from the state of the input model."""
        table = self.workflow.root.section("passes")
        for name in table.value if table is not None else ():
            assert table is not None
            self.entries[name] = list(_alternatives(table, name))
        if table is not None and not table.value:
            table.ledger.no_effect(table.path, "it is empty")
        number = 0
        for flow in self._flows():
            for chosen in self._chosen(flow):
                self._run_all(number, flow, chosen, start)
                number += 1
        self._claim_unused()

    def _run_all(self, number: int, flow: Flow, chosen: tuple[Section, ...], start: State) -> None:
        """Map one flow for each provider.

        Where nothing comes of it for some of several providers, Olive goes on with the others.
        """
        hardware = self._hardware(flow)
        failed: dict[Skipped, str] = {}
        for each in hardware:
            key = (number, each.provider)
            if reason := self.skipped.get(key):
                names = ", ".join(name for name, _ in flow.names)
                for path in each.paths:
                    does = f"Olive ends {names} without a model for it: {reason}"
                    self.workflow.ledger.meant_else(path, does)
                continue
            before = {e.path for e in self.workflow.ledger.refusals() if e.fatal}
            self._run(flow, chosen, each, start)
            faults = [e for e in self.workflow.ledger.refusals() if e.fatal]
            if new := [e for e in faults if e.path not in before]:
                failed[key] = new[0].text
        if len(failed) < len(hardware):
            self.failed |= failed

    def _run(
        self, flow: Flow, chosen: tuple[Section, ...], hardware: Hardware, start: State
    ) -> None:
        """Map one flow for one provider."""
        state = start
        for section in chosen:
            before = set(self.workflow.draft.targets)
            self._claim_beside(section)
            host, path = self._host(flow, section)
            state = self._pass(section, hardware, state)
            new = [t for n, t in self.workflow.draft.targets.items() if n not in before]
            for target in new:
                if host is not None and host.name:
                    target.set("executor", host.name, *([path] if path else []))
                if target.kind == "onnx" and flow.target is not None:
                    flow.target.onnx.append(target.name)
                elif target.kind == "onnx":
                    self.systems.without_target += (target.name,)
        for name, path in flow.names:
            if path is not None and name in self.entries:
                self.workflow.ledger.mapped(path, state.result)
        if chosen and state not in self.results:
            self.results.append(state)

    def _pass(self, section: Section, hardware: Hardware, state: State) -> State:
        """Map a pass; once for all providers unless it makes an ONNX model."""
        for key in ((section.path, state), (section.path, state, hardware)):
            if key in self._cache:
                return self._cache[key]
        kind = section.value.get("type")
        name = next(part for part in section.path[1:] if isinstance(part, str))
        if isinstance(kind, Placeholder) or not isinstance(kind, str):
            path = section.at("type") if "type" in section else section.path
            section.ledger.refused(path, "a pass without a type", 'for example "type": "LoRA"')
            section.ledger.no_effect(section.path, "its pass has no type")
            self._cache[section.path, state] = state
            return state
        mapped = Pass(
            name=name,
            type=kind.lower(),
            section=section,
            options=config_of(section),
            hardware=hardware,
        )
        mapper = registry.PASSES.get(mapped.type)
        if mapper is None:
            registry.refuse(self.workflow, mapped)
            section.ledger.no_effect(section.path, "its pass is refused")
            result = state
        else:
            result = mapper(self.workflow, state, mapped)
            section.mapped("type", f"{result.result}.kind")
        key = (section.path, state, hardware) if result.onnx else (section.path, state)
        self._cache[key] = result
        return result

    def _host(self, flow: Flow, section: Section) -> tuple[System | None, Path | None]:
        """Return the system that runs a pass, and the leaf that says so."""
        if section.value.get("host") is not None:
            path = section.at("host")
            system = self.systems.of(path, section.value["host"])
            _claim_system(self.workflow, path, system)
            return system, path
        return flow.host, flow.host_path

    def _hardware(self, flow: Flow) -> list[Hardware]:
        if flow.target is not None:
            return flow.target.hardware
        if self.systems.engine_providers is None:
            return [Hardware()]
        path, value = self.systems.engine_providers
        return hardware_of(read_accelerators(execution_providers=value), (), path)

    def _chosen(self, flow: Flow) -> Iterator[tuple[Section, ...]]:
        """Yield the passes of a flow, for each choice among alternatives if there is a search."""
        lists = [self.entries[name] for name, _ in flow.names if self.entries.get(name)]
        if not self.workflow.search:
            yield tuple(entries[0] for entries in lists)
            return
        count = 1
        for entries in lists:
            count *= len(entries)
        if count > MOST_FLOWS:
            self.workflow.root.refused(
                "passes",
                f"its alternatives are {count} flows",
                f"at most {MOST_FLOWS} can be: list fewer",
            )
            return
        yield from product(*lists)

    def _flows(self) -> list[Flow]:
        """Return the flows that the file describes."""
        root, ledger = self.workflow.root, self.workflow.ledger
        host, host_path = self._system("host")
        target, _ = self._system("target")
        if "workflow_host" in root:
            whole, whole_path = self._named(root, "workflow_host")
            if host is None or not host.name:
                host, host_path = whole, whole_path
        if target is not None:
            target.is_target = True
        if builds := root.section("builds"):
            return list(self._builds(builds, host, host_path, target))
        flows = []
        for path, item in root.items("pass_flows"):
            names = item if isinstance(item, list) else [item]
            places = [(*path, i) for i in range(len(names))] if isinstance(item, list) else [path]
            listed = [
                (name, place)
                for name, place in zip(names, places, strict=True)
                if self._is_pass(name, place)
            ]
            if not names:
                ledger.no_effect(path, "it is empty")
            flows.append(Flow(names=tuple(listed), host=host, host_path=host_path, target=target))
        if "pass_flows" in root and not root.value["pass_flows"]:
            root.no_effect("pass_flows", "it is empty: all passes run in their order")
        in_order = tuple((name, None) for name in self.entries)
        return flows or [Flow(names=in_order, host=host, host_path=host_path, target=target)]

    def _is_pass(self, name: object, path: Path) -> bool:
        """Return whether there is a pass of a name; refuse it if not."""
        if isinstance(name, str) and name in self.entries:
            self.workflow.ledger.mapped(path, "")
            return True
        fact = f"there is no pass {name!r}"
        hint = did_you_mean(str(name), self.entries) if self.entries else "describe it in `passes`"
        if isinstance(name, Placeholder):
            fact, hint = "which passes run is left open", "name some of those under `passes`"
        self.workflow.ledger.refused(path, fact, hint)
        return False

    def _builds(
        self, builds: Section, host: System | None, host_path: Path | None, target: System | None
    ) -> Iterator[Flow]:
        """Yield the flow of each build, with the values that `_default` shares."""
        shared = builds.section("_default") if "_default" in builds else None
        for name in builds.value:
            section = builds.section(name)
            if section is None or name == "_default":
                continue
            of = _Layered(section, shared)
            own_host, own_path = self._layered(of, "host")
            own_target, _ = self._layered(of, "target")
            if own_target is not None:
                own_target.is_target = True
            holder = of.holder("pipeline")
            items = holder.items("pipeline") if holder is not None else []
            listed = tuple((str(n), p) for p, n in items if self._is_pass(n, p))
            yield Flow(
                name=name,
                names=listed or tuple((n, None) for n in self.entries),
                host=own_host or host,
                host_path=own_path or host_path,
                target=own_target or target,
            )
        for section in (shared, *(builds.section(n) for n in builds.value if n != "_default")):
            if section is not None:
                self._claim_build(section)

    def _layered(self, of: _Layered, key: str) -> tuple[System | None, Path | None]:
        holder = of.holder(key)
        return self._named(holder, key) if holder is not None else (None, None)

    def _claim_build(self, section: Section) -> None:
        if "output_dir" in section:
            section.no_effect("output_dir", "results lie in build/, a folder for each target")
        for key in ("components", "evaluator", "search_strategy"):
            if key in section and section.value[key] not in (None, False):
                section.refused(
                    key,
                    f"{key} of one build among several",
                    "import a file for each build",
                    fatal=key == "components",
                )
            elif key in section:
                section.no_effect(key, "it is off")
        section.unknown(
            ("components", "pipeline", "output_dir", "host", "target", "evaluator")
        ) if section.value else section.ledger.no_effect(section.path, "it is empty")

    def _system(self, key: str) -> tuple[System | None, Path | None]:
        holder = self.engine.holder(key)
        return self._named(holder, key) if holder is not None else (None, None)

    def _named(self, holder: Section, key: str) -> tuple[System | None, Path | None]:
        system = self.systems.of(holder.at(key), holder.value[key])
        _claim_system(self.workflow, holder.at(key), system)
        return system, holder.at(key)

    def _claim_unused(self) -> None:
        """Claim the passes that no flow runs, and refuse what no mapper knows of the others."""
        used = {key[0] for key in self._cache}
        for name, entries in self.entries.items():
            for number, section in enumerate(entries):
                because = f"no flow runs {name}"
                if number:
                    because = "without a search only the first alternative runs"
                if section.path in used:
                    section.unknown(BESIDE_OPTIONS)
                else:
                    section.ledger.no_effect(section.path, because)

    def _claim_beside(self, section: Section) -> None:
        """Claim what stands beside a pass's options: in the flattened form its mapper sees it."""
        for key, because in BESIDE.items():
            if key in section:
                section.no_effect(key, because)
        if "type" in section:
            section.mapped("type", "")
        if "host" in section and section.value["host"] is None:
            section.no_effect("host", "it is null")
        if "evaluator" in section:
            because = "results are measured, not what is between passes"
            section.no_effect(
                "evaluator", "it is null" if section.value["evaluator"] is None else because
            )


class _Layered:
    """A section whose missing values another one has."""

    def __init__(self, section: Section, shared: Section | None) -> None:
        self._sections = (section, shared)

    def holder(self, key: str) -> Section | None:
        return next((s for s in self._sections if s is not None and key in s), None)


def _alternatives(table: Section, name: str) -> Iterator[Section]:
    """Yield the alternatives of a pass: one, or those of a list."""
    value = table.value[name]
    for path, item in table.items(name):
        if isinstance(item, dict) and item:
            yield Section(table.ledger, path, item)
        else:
            table.ledger.refused(path, f"the pass {name} is no mapping", "give it a `type`")
    if value is None or value == []:
        table.refused(name, f"the pass {name} has nothing in it", "give it a `type`")


def _claim_system(workflow: Workflow, path: Path, system: System | None) -> None:
    """Claim the leaf that names a system.

    Of one that is described there the leaves are claimed with the system.
    """
    if system is None or system.path == path:
        return
    if system.name:
        workflow.ledger.mapped(path, f"executors.{system.name}")
    else:
        workflow.ledger.no_effect(path, "steps run on this machine anyway")


def references(states: list[State]) -> list[Ref]:
    """Return the results of flows, each once."""
    return [Ref(target=name) for name in dict.fromkeys(state.result for state in states)]
