"""Systems of a workflow -> executors of the recipe, and the providers of its ONNX models.

A system is a machine: this one, a container, another Python, or an Azure ML compute. What it says
of accelerators decides for which provider ONNX models are built.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.executors import MODELS
from olivebuild.recipe.importers.olive.draft import Line, word
from olivebuild.recipe.importers.olive.providers import MISSING, Reading, Word, read_accelerators
from olivebuild.recipe.importers.olive.section import Section, config_of
from olivebuild.recipe.importers.olive.top.executor_fields import (
    CLIENT,
    CLIENT_IDLE,
    FIELDS,
    IDLE,
    PATHS,
)
from olivebuild.recipe.importers.olive.workflow import Hardware, Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder, shown
from olivebuild.recipe.importers.secrets import FIELD as SECRET

KINDS = {
    "localsystem": "local",
    "local": "local",
    "azureml": "azureml",
    "azure_arc": "azureml",
    "docker": "docker",
    "pythonenvironment": "python",
    "isolatedort": "python",
}
"""Type in lower case -> kind of executor."""
ALIASES = ((r"azurend\w*system", "azureml"), (r"surfaceprosystem\d+", "local"))
"""Types that stand for a machine with a GPU, up to 0.9.2."""
TYPES = ("LocalSystem", "AzureML", "Docker", "PythonEnvironment", "IsolatedORT")


@dataclass(kw_only=True)
class System:
    """A system of the file."""

    name: str
    """The executor's name; "" for this machine."""
    kind: str
    path: Path
    options: Section
    reading: Reading
    engine_path: Path = ()
    """Of the engine's own providers, which count for it up to 0.5.0."""
    onnx: list[str] = field(default_factory=list)
    """The ONNX targets that are built for its accelerators."""
    is_target: bool = False
    is_host: bool = False

    @property
    def hardware(self) -> list[Hardware]:
        """Return what it has, one for each provider."""
        return hardware_of(self.reading, self.options.path, self.engine_path)


class Systems:
    """The systems of a workflow, by name and by the places that describe one inline."""

    def __init__(self, workflow: Workflow, engine_providers: tuple[Path, object] | None) -> None:
        """`engine_providers`: the path and value of `engine.execution_providers`, to 0.5.0."""
        self.workflow = workflow
        self.engine_providers = engine_providers
        self.named: dict[str, System] = {}
        self.inline: dict[Path, System] = {}
        table = workflow.root.section("systems")
        for name in table.value if table else ():
            assert table is not None
            section = table.section(name)
            if section is None:
                if table.value[name] is None:
                    table.refused(name, f"the system {name} is null", "give it a `type`")
                continue
            if system := self._read(self._free_name(name), section):
                self.named[name] = system
        if table and not table.value:
            workflow.ledger.no_effect(table.path, "it is empty")

    def of(self, path: Path, value: object) -> System | None:
        """Return the system that a `host` or `target` names or describes.

        None for this machine; also after a refusal.
        """
        ledger = self.workflow.ledger
        if value is None:
            ledger.no_effect(path, "it is null: this machine")
            return None
        if isinstance(value, dict):
            if path not in self.inline:
                name = self._free_name(str(path[-1]))
                system = self._read(name, Section(ledger, path, value))
                if system is None:
                    return None
                self.inline[path] = system
            return self.inline[path]
        if isinstance(value, str) and value in self.named:
            return self.named[value]
        if isinstance(value, str) and value in ("local_system", "local"):
            ledger.no_effect(path, "steps run on this machine anyway")
            return None
        if isinstance(value, Placeholder):
            if len(self.named) == 1:
                (system,) = self.named.values()
                ledger.mapped(path, "executors", "left open: taken for the only system")
                return system
            ledger.mapped(path, "executors", "left open: steps run on this machine")
            return None
        ledger.refused(
            path,
            f"there is no system {value!r}",
            did_you_mean(str(value), self.named) if self.named else "describe it under `systems`",
        )
        return None

    def _read(self, name: str, section: Section) -> System | None:
        kind, is_alias = self._kind(section)
        if not kind:
            return None
        options = config_of(section)
        accelerators = options.value.get("accelerators", MISSING)
        providers: object = MISSING
        if self.engine_providers and self.engine_providers[1] is not None:
            providers = self.engine_providers[1]
        if is_alias and accelerators is MISSING:
            accelerators = ["gpu"]
        return System(
            name="" if kind == "local" else name,
            kind=kind,
            path=section.path,
            options=options,
            reading=read_accelerators(accelerators, providers),
            engine_path=self.engine_providers[0] if self.engine_providers else (),
        )

    def _free_name(self, wish: str) -> str:
        """Return a name for an executor that no other has."""
        taken = {system.name for system in (*self.named.values(), *self.inline.values())}
        base = name = word(wish)
        n = 1
        while name in taken:
            n += 1
            name = f"{base}-{n}"
        return name

    def _kind(self, section: Section) -> tuple[str, bool]:
        """Return the kind of executor of a system, "" if refused, and whether by an alias."""
        kind = section.value.get("type")
        if not isinstance(kind, str):
            fact = "a system without a type" if kind is None else "the type is no text"
            path = section.at("type") if "type" in section else section.path
            section.ledger.refused(path, fact, f"one of {', '.join(TYPES)}")
            return "", False
        lower = kind.lower()
        if lower in KINDS:
            return KINDS[lower], False
        for pattern, of_alias in ALIASES:
            if re.fullmatch(pattern, lower):
                return of_alias, True
        section.refused("type", f"there is no type of system {kind!r}", did_you_mean(kind, TYPES))
        section.ledger.no_effect(section.path, "its system is refused")
        return "", False

    def finish(self, client: Section | None) -> None:
        """Write the executors, and claim every leaf of the systems and of the client."""
        systems = [*self.named.values(), *self.inline.values()]
        for system in systems:
            self._claim_accelerators(system)
            if system.kind == "local":
                self._claim_local(system)
            else:
                self._executor(system, client)
        self._claim_engine_providers(systems)
        if client is not None:
            self._claim_client(client, [s for s in systems if s.kind == "azureml"])

    def _executor(self, system: System, client: Section | None) -> None:
        """Write the executor of a system that is not this machine."""
        lines: dict[str, Line] = {}
        where = f"executors.{system.name}"
        section = Section(self.workflow.ledger, system.path, _mapping(self.workflow, system.path))
        origin = f"{shown(system.path)}, line {self.workflow.document.line(system.path)}"
        lines["kind"] = Line(value=system.kind, origin=origin)
        section.mapped("type", f"{where}.kind")
        if client is not None and system.kind == "azureml":
            self._fields(client, {k: CLIENT[k] for k in CLIENT}, lines, where)
        self._fields(system.options, FIELDS[system.kind], lines, where)
        self._place_dockerfile(lines)
        _idle(system.options, IDLE)
        keys = [*FIELDS[system.kind], *IDLE, "accelerators", "type", "config"]
        system.options.unknown(dict.fromkeys(name.split(".")[0] for name in keys))
        section.unknown(("type", "config"))
        self._check(system.kind, lines)
        self.workflow.draft.executors[system.name] = lines

    def _check(self, kind: str, lines: Mapping[str, Line]) -> None:
        """Refuse the values that an executor can't have, where the file has them."""
        filled = {
            name: _texts(line.value)
            for name, line in lines.items()
            if not isinstance(line.value, Placeholder)
        }
        try:
            MODELS[kind].model_validate(filled)
        except ValidationError as e:
            for error in e.errors(include_url=False):
                line = lines[str(error["loc"][0])]
                fact = error["msg"][:1].lower() + error["msg"][1:]
                for leaf in self.workflow.document.leaves():
                    # Each by itself: what was claimed as a part of the value is refused with it.
                    if any(leaf[: len(path)] == path for path in line.paths):
                        self.workflow.ledger.refused(leaf, fact, "write a value of that kind")

    def _place_dockerfile(self, lines: dict[str, Line]) -> None:
        """Have a Dockerfile named from the recipe's folder on: Olive's is named in its context."""
        line, context = lines.get("dockerfile"), lines.get("build_context")
        if line is None or not isinstance(line.value, str):
            return
        if context is not None and isinstance(context.value, str):
            value = posixpath.join(context.value, line.value)
        else:
            value = self.workflow.relative(line.value)
        lines["dockerfile"] = replace(line, value=value)

    def _fields(
        self, section: Section, fields: Mapping[str, str], lines: dict[str, Line], where: str
    ) -> None:
        """Copy fields of Olive's to an executor."""
        for name, to in fields.items():
            holder, key = _at(section, name)
            if holder is None or key not in holder or holder.value[key] is None:
                continue
            value, path = holder.value[key], holder.at(key)
            if secrets := _secrets(path, value):
                for secret in secrets:
                    section.ledger.refused(
                        secret,
                        "a secret is copied nowhere",
                        "set it in the environment of the executor",
                        fatal=False,
                    )
                value = {k: v for k, v in _dict(value).items() if (*path, k) not in secrets}
            if to in PATHS and to != "dockerfile" and isinstance(value, str):
                value = self.workflow.relative(value)
            origin = f"{shown(path)}, line {self.workflow.document.line(path)}"
            lines[to] = Line(value=value, origin=origin, paths=(path,))
            section.ledger.mapped(path, f"{where}.{to}")

    def _claim_local(self, system: System) -> None:
        section = Section(self.workflow.ledger, system.path, _mapping(self.workflow, system.path))
        section.no_effect("type", "steps run on this machine anyway")
        _idle(system.options, IDLE)
        system.options.unknown((*IDLE, "accelerators", "type", "config"))
        section.unknown(("type", "config"))

    def _claim_accelerators(self, system: System) -> None:
        for entry in system.reading.words:
            if entry.path[0] == "execution_providers" or "accelerators" not in system.options:
                continue
            self._claim_word((*system.options.path, *entry.path), entry, [system])

    def _claim_engine_providers(self, systems: list[System]) -> None:
        """Claim `engine.execution_providers`, which counts for the target system."""
        if not self.engine_providers:
            return
        path, value = self.engine_providers
        targets = [s for s in systems if s.is_target]
        reading = targets[0].reading if targets else read_accelerators(execution_providers=value)
        for entry in reading.words:
            if entry.path[0] == "execution_providers":
                self._claim_word((*path, *entry.path[1:]), entry, targets or None)

    def _claim_word(self, path: Path, entry: Word, systems: list[System] | None) -> None:
        """Claim a leaf that says for what ONNX models are built."""
        ledger = self.workflow.ledger
        onnx = (
            [name for s in systems or () for name in s.onnx]
            if systems is not None
            else (self.without_target)
        )
        fields = ", ".join(dict.fromkeys(f"{name}.provider" for name in onnx))
        is_target = systems is None or any(s.is_target for s in systems)
        if entry.outcome == "refused" and (is_target or entry.unheard_of):
            ledger.refused(path, entry.because, entry.hint)
        elif entry.outcome == "ignored":
            ledger.no_effect(path, entry.because)
        elif not is_target:
            ledger.no_effect(path, "only the system that `target` names decides on providers")
        elif not onnx:
            ledger.no_effect(path, "no ONNX model is built; training takes the GPU that there is")
        elif entry.outcome == "differs":
            ledger.meant_else(path, entry.because, fields)
        else:
            ledger.mapped(path, fields)

    without_target: tuple[str, ...] = ()
    """ONNX targets that are built where no system is the target."""

    def _claim_client(self, client: Section, executors: list[System]) -> None:
        for name, because in CLIENT_IDLE.items():
            if name in client:
                client.no_effect(name, because)
        if not executors:
            for name in CLIENT:
                if name in client and self.workflow.ledger.unclaimed(client.at(name)):
                    client.no_effect(name, "nothing here uses a workspace")
        client.unknown((*CLIENT, *CLIENT_IDLE))


def hardware_of(reading: Reading, system: Path, engine: Path) -> list[Hardware]:
    """Return what accelerators and providers ask for, one for each provider.

    `system` and `engine` are the paths at which the two stand in the file.
    """
    # What is refused stops the import; a GPU takes every precision, so it adds no second fault.
    fallback = "cuda" if reading.refused else "cpu"
    hardware = []
    for provider in reading.providers or (fallback,):
        words = [w for w in reading.words if w.provider == provider]
        paths = tuple(
            (*engine, *w.path[1:]) if w.path[0] == "execution_providers" else (*system, *w.path)
            for w in words
        )
        device = "cpu" if provider == "cpu" else "gpu"
        hardware.append(Hardware(provider=provider, device=device, paths=paths[:1]))
    return hardware


def _mapping(workflow: Workflow, path: Path) -> dict[str, object]:
    """Return the mapping of the file at a path."""
    value: object = workflow.document.value
    for part in path:
        value = value[part] if isinstance(value, list) else _dict(value)[str(part)]  # type: ignore[index]
    return _dict(value)


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _at(section: Section, name: str) -> tuple[Section | None, str]:
    """Return the section and the key of a field such as `aml_docker_config.base_image`."""
    *above, key = name.split(".")
    below: Section | None = section
    for part in above:
        below = below.section(part) if below is not None and part in below else None
    return below, key


def _idle(section: Section, fields: Mapping[str, str]) -> None:
    """Claim fields that change nothing here, and that nothing else has claimed."""
    for name, because in fields.items():
        holder, key = _at(section, name)
        if holder is not None and key in holder and section.ledger.unclaimed(holder.at(key)):
            holder.no_effect(key, because)


def _secrets(path: Path, value: object) -> list[Path]:
    """Return the paths of what may be a secret among an environment's variables."""
    if path[-1] not in ("environment_variables", "build_args", "run_params"):
        return []
    return [(*path, name) for name in _dict(value) if SECRET.search(name)]


def _texts(value: object) -> object:
    """Return a value in which placeholders are the texts that the recipe has for them."""
    if isinstance(value, list):
        return [_texts(item) for item in value]
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    return str(value) if isinstance(value, Placeholder) else value
