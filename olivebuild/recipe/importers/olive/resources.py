"""Resource paths of Olive (a string, or {type, config}) as sources of the recipe."""

from __future__ import annotations

import re
from collections.abc import Callable

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.section import Section, config_of
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder

HUB = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
REMOTE = ("azureml://", "az://", "abfss://", "s3://", "gs://", "https://")
Source = str | Placeholder
TYPES = (
    "file",
    "folder",
    "string_name",
    "azureml_model",
    "azureml_registry_model",
    "azureml_datastore",
    "azureml_job_output",
)
CLIENT = (
    "subscription_id",
    "resource_group",
    "workspace_name",
    "aml_config_path",
    "read_timeout",
    "max_operation_retries",
    "operation_retry_interval",
    "default_auth_params",
    "keyvault_name",
)
WORKSPACE = CLIENT[:3]


def resource(workflow: Workflow, section: Section, key: str, field: str) -> Source | None:
    """Return the source that a resource path names, and claim its leaves for `field`.

    None where it is not there, or was refused.
    """
    value = section.value.get(key)
    if isinstance(value, str) and not value.strip():
        section.refused(key, f"{key} is empty", "name a path, an id of the hub, or a URL")
        return None
    if isinstance(value, str | Placeholder):
        section.mapped(key, field)
        return value if isinstance(value, Placeholder) else source_of(workflow, value)
    if value is not None and not isinstance(value, dict):
        section.wrong(key, "text or a mapping")
        return None
    table = section.section(key)
    if table is None:
        return None
    kind = table.get("type", str)
    if isinstance(kind, Placeholder) or kind is None:
        if "type" not in table:
            table.ledger.refused(
                table.path, "a resource without `type`", f"one of {', '.join(TYPES)}"
            )
        return None
    maker = _MAKERS.get(kind.lower())
    if maker is None:
        hint = did_you_mean(kind, TYPES)
        if kind.lower() == "azureml_job_output":
            hint = "download the output, and name the folder"
        table.refused("type", f"{kind} is no kind of resource that can be read here", hint)
        table.ledger.no_effect(table.path, "it belongs to a resource that is refused")
        return None
    table.mapped("type", field)
    options = config_of(table)
    return maker(workflow, options, field)


def source_of(workflow: Workflow, text: str) -> str:
    """Return a string of the file as a source: a path, an id of the hub, or a URL."""
    if text.startswith(REMOTE):
        return text
    if text.startswith("hf://"):
        return "hf:" + text.removeprefix("hf://").removeprefix("datasets/")
    prefix = "gguf:" if text.lower().endswith(".gguf") else ""
    if HUB.fullmatch(text) and not _exists(workflow, text) and not prefix:
        return f"hf:{text}"
    return prefix + workflow.relative(text)


def _exists(workflow: Workflow, text: str) -> bool:
    try:
        return (workflow.folder / text).exists()
    except (OSError, ValueError):
        return False


def joined(parts: list[Source], template: str) -> Source:
    """Return `template` with its `{}` filled; a placeholder if one of the parts is one."""
    texts = [part.text if isinstance(part, Placeholder) else part for part in parts]
    text = template.format(*texts)
    return Placeholder(text) if any(isinstance(p, Placeholder) for p in parts) else text


def _local(workflow: Workflow, options: Section, field: str) -> Source | None:
    path = _needed(options, "path", field)
    options.unknown(("path",))
    if path is None or isinstance(path, Placeholder):
        return path
    return workflow.relative(path)


def _name(workflow: Workflow, options: Section, field: str) -> Source | None:
    name = _needed(options, "name", field)
    options.unknown(("name",))
    if name is None or isinstance(name, Placeholder):
        return name
    return source_of(workflow, name)


def _registry(_workflow: Workflow, options: Section, field: str) -> Source | None:
    parts = [_needed(options, key, field) for key in ("registry_name", "name", "version")]
    for key in ("max_operation_retries", "operation_retry_interval"):
        if key in options:
            options.no_effect(key, "requests are repeated by rules of their own")
    if "azureml_client" in options:
        options.no_effect("azureml_client", "a registry needs no workspace")
    options.unknown(("registry_name", "name", "version", "azureml_client", "max_operation_retries"))
    return _whole(parts, "azureml://registries/{}/models/{}/versions/{}")


def _workspace_model(workflow: Workflow, options: Section, field: str) -> Source | None:
    workspace = _workspace(workflow, options, field)
    parts = [_needed(options, key, field) for key in ("name", "version")]
    options.unknown(("azureml_client", "name", "version"))
    return _whole([*workspace, *parts], _WORKSPACE + "/models/{}/versions/{}")


def _datastore(workflow: Workflow, options: Section, field: str) -> Source | None:
    keys = ("azureml_client", "datastore_name", "relative_path", "datastore_url")
    if "datastore_url" in options:
        url = options.get("datastore_url", str)
        options.mapped("datastore_url", field)
        for key in keys[:3]:
            if key in options:
                options.no_effect(key, "datastore_url says it whole")
        options.unknown(keys)
        return url
    workspace = _workspace(workflow, options, field)
    parts = [_needed(options, key, field) for key in ("datastore_name", "relative_path")]
    options.unknown(keys)
    return _whole([*workspace, *parts], _WORKSPACE + "/datastores/{}/paths/{}")


_WORKSPACE = "azureml://subscriptions/{}/resourcegroups/{}/workspaces/{}"
_MAKERS: dict[str, Callable[[Workflow, Section, str], Source | None]] = {
    "file": _local,
    "folder": _local,
    "string_name": _name,
    "azureml_registry_model": _registry,
    "azureml_model": _workspace_model,
    "azureml_datastore": _datastore,
}


def _workspace(workflow: Workflow, options: Section, field: str) -> list[Source | None]:
    """Return subscription, group and workspace of a resource's client, or of the file's."""
    client = options.section("azureml_client") or workflow.root.section("azureml_client")
    if client is None:
        names = ", ".join(WORKSPACE)
        return [
            Placeholder(f"{name} (the file has no azureml_client: {names})") for name in WORKSPACE
        ]
    parts: list[Source | None] = []
    for key in WORKSPACE:
        value = client.get(key, str)
        if value is not None:
            client.mapped(key, field)
        elif "aml_config_path" in client:
            value = Placeholder(f"{key} of {client.value['aml_config_path']}")
        else:
            value = Placeholder(key)
        parts.append(value)
    if "aml_config_path" in client:
        client.mapped("aml_config_path", field, "the file is not read: write its three values")
    for key in CLIENT[4:]:
        if key in client and client.path != ("azureml_client",):
            client.no_effect(key, "credentials and retries come from the environment's own chain")
    if client.path != ("azureml_client",):
        client.unknown(CLIENT)
    return parts


def _needed(options: Section, key: str, field: str) -> Source | None:
    """Return a text or number as text; refused where it is not there."""
    value = options.value.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        options.mapped(key, field)
        return str(value)
    text = options.get(key, str)
    if text is None or (isinstance(text, str) and not text.strip()):
        if key not in options or value is None or text is not None:
            path: Path = options.at(key) if key in options else options.path
            options.ledger.refused(path, f"no `{key}`", f"a resource of this kind needs {key}")
        return None
    options.mapped(key, field)
    return text


def _whole(parts: list[Source | None], template: str) -> Source | None:
    texts = [part for part in parts if part is not None]
    return joined(texts, template) if len(texts) == len(parts) else None
