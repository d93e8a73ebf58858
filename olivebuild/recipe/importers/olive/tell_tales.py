"""Words of Olive workflows and the releases that take them as they stand.

Read off the fields of the tags v0.2.1 to v0.13.0 of microsoft/Olive.
"""

from __future__ import annotations

from collections.abc import Iterator

from olivebuild.recipe.importers.positions import Document, Path

Version = tuple[int, int, int]

V01: Version = (0, 1, 0)
V02: Version = (0, 2, 1)
V03: Version = (0, 3, 3)
V04: Version = (0, 4, 0)
V050: Version = (0, 5, 0)
V051: Version = (0, 5, 1)
V052: Version = (0, 5, 2)
V060: Version = (0, 6, 0)
V061: Version = (0, 6, 1)
V062: Version = (0, 6, 2)
JULY: Version = (0, 6, 9)
"""The main branch of July 2024, which is no release: the layout of 0.7 with the data words of
0.6.2. The AI Toolkit pinned it, and people installed it from GitHub.
"""
V070: Version = (0, 7, 0)
V071: Version = (0, 7, 1)
V08: Version = (0, 8, 0)
V090: Version = (0, 9, 0)
V092: Version = (0, 9, 2)
V093: Version = (0, 9, 3)
MAIN: Version = (0, 14, 0)
"""The main branch after 0.13.0."""

DATA = "data_configs/*"
TUNING = ("lora", "qlora", "loftq", "dora", "loha", "lokr")

KEYS: dict[str, tuple[Version, Version]] = {
    "verbose": (V01, V01),
    "data_config": (V02, V02),
    "data_root": (V03, V062),
    "pass_flows": (V03, V071),
    "azureml_client": (V02, V092),
    "auto_optimizer_config": (V050, V092),
    "workflow_id": (V062, MAIN),
    "workflow_host": (V070, V092),
    "builds": (MAIN, MAIN),
    "azureml_client/keyvault_name": (V050, V092),
    "input_model/config/hf_config": (V01, V062),
    "input_model/config/hf_config/model_loading_args": (V03, V04),
    "input_model/config/hf_config/from_pretrained_args": (V050, V062),
    "input_model/config/hf_config/dataset": (V02, V052),
    "input_model/load_kwargs": (JULY, MAIN),
    "input_model/config/load_kwargs": (JULY, MAIN),
    f"{DATA}/params_config": (V02, V061),
    f"{DATA}/load_dataset_config": (V062, MAIN),
    f"{DATA}/pre_process_data_config": (V062, MAIN),
    "systems/*/config/hf_token": (V050, MAIN),
    "systems/*/config/aml_environment_config": (V050, V092),
    "passes/*/disable_search": (V02, V070),
    "passes/*/clean_run_cache": (V02, V062),
    "evaluators/*/metrics/*/sub_type": (V01, V01),
    "evaluators/*/metrics/*/priority_rank": (V01, V01),
    "engine/execution_providers": (V02, V050),
    "engine/azureml_client_config": (V02, V050),
    "engine/evaluation_only": (V02, V02),
    "engine/log_to_file": (V050, MAIN),
    "engine/output_name": (V02, V062),
}
"""A key, by its path with `/` between its parts and `*` for a name or a number, and the first and
the last release that takes it.
"""
FLAT = ("host", "target", "evaluator", "search_strategy", "cache_dir", "output_dir", "log_to_file")
"""Keys of the engine; at the top level they tell the flattened form."""
PROCESSING: dict[str, tuple[Version, Version]] = {
    "dataset_type": (V03, JULY),
    "corpus_strategy": (V03, JULY),
    "source_max_len": (V03, JULY),
    "max_seq_len": (V070, MAIN),
    "strategy": (V070, MAIN),
    "chat_template": (V070, MAIN),
}
"""Parameters of the step that makes tokens of rows."""
TEXTS = {"text_template", "text_cols", "text_formatting_func"}
"""Parameters of that step which say what a row's text is."""
OPTIONS: dict[str, tuple[Version, Version]] = {
    "lora_r": (V03, V071),
    "lora_alpha": (V03, V071),
    "r": (V08, MAIN),
    "alpha": (V08, MAIN),
    "eval_dataset_size": (V03, JULY),
    "training_loop_func": (V01, V01),
}
"""Options of the passes that train."""
TYPES: dict[str, tuple[Version, Version]] = {
    "qlora": (V03, MAIN),
    "loftq": (V050, MAIN),
    "extractadapters": (V052, MAIN),
    "modelbuilder": (V060, MAIN),
    "mergeadapterweights": (V061, MAIN),
    "dora": (V08, MAIN),
    "loha": (V08, MAIN),
    "lokr": (V08, MAIN),
    "onnxmatmul4quantizer": (V03, V092),
    "optimummerging": (V02, V090),
    "gptq": (V093, MAIN),
    "rtn": (V093, MAIN),
    "selectivemixedprecision": (V093, MAIN),
}
"""Types of passes, in lower case."""
BESIDE_OPTIONS = (
    "type",
    "config",
    "host",
    "evaluator",
    "output_name",
    "disable_search",
    "clean_run_cache",
    "accelerator",
    "host_device",
)
"""Keys of a pass that are no options of its type."""

Sign = tuple[Path, str, Version, Version]
"""The place, the word, and the first and the last release."""


def signs(document: Document) -> Iterator[Sign]:
    """Yield each word of a workflow that only some releases take as it stands."""
    root = document.value
    if not isinstance(root, dict):
        return
    yield from _keys(document)
    yield from _shape(root)
    yield from _systems(root)
    yield from _data(root)
    yield from _passes(root)
    yield from _search(root)


def _keys(document: Document) -> Iterator[Sign]:
    wanted = {tuple(pattern.split("/")): span for pattern, span in KEYS.items()}
    lasts = {pattern[-1] for pattern in wanted}
    for path in document.places:
        if not path or path[-1] not in lasts:
            continue
        for pattern, (first, last) in wanted.items():
            if len(pattern) == len(path) and all(
                one in ("*", part) for one, part in zip(pattern, path, strict=True)
            ):
                yield path, str(path[-1]), first, last


def _shape(root: dict[str, object]) -> Iterator[Sign]:
    model = root.get("input_model")
    kind = model.get("type") if isinstance(model, dict) else None
    if isinstance(kind, str) and kind.lower() == "hfmodel":
        yield ("input_model", "type"), kind, JULY, MAIN
    if isinstance(kind, str) and kind == "OptimumModel":
        yield ("input_model", "type"), kind, V02, V060
    for key in FLAT:
        if key in root:
            yield (key,), f"{key} at the top level", JULY, MAIN
    if isinstance(data := root.get("data_configs"), dict):
        yield ("data_configs",), "data_configs as a mapping", V03, V052
    elif isinstance(data, list):
        yield ("data_configs",), "data_configs as a list", V060, MAIN


def _systems(root: dict[str, object]) -> Iterator[Sign]:
    systems = root.get("systems")
    for name, system in systems.items() if isinstance(systems, dict) else ():
        if not isinstance(system, dict):
            continue
        path: Path = ("systems", name)
        if str(system.get("type")).lower() == "azureml":
            yield (*path, "type"), "AzureML", V02, V092
        options, below = system, path
        if isinstance(system.get("config"), dict):
            options, below = system["config"], (*path, "config")
        elif "accelerators" in system:
            yield (*path, "accelerators"), "a system without `config`", JULY, MAIN
        accelerators = options.get("accelerators")
        first = accelerators[0] if isinstance(accelerators, list) and accelerators else None
        if isinstance(first, str):
            yield (*below, "accelerators"), "accelerators as words", V02, V050
        elif isinstance(first, dict):
            yield (*below, "accelerators"), "accelerators as objects", V051, MAIN


def _data(root: dict[str, object]) -> Iterator[Sign]:
    data = root.get("data_configs")
    pairs = data.items() if isinstance(data, dict) else ()
    items = [*pairs, *(enumerate(data) if isinstance(data, list) else ())]
    model = root.get("input_model")
    kind = str(model.get("type")).lower() if isinstance(model, dict) else ""
    # No release since then has the old kinds of models of Hugging Face's.
    last = JULY if kind == "pytorchmodel" else MAIN
    for name, config in items:
        if not isinstance(config, dict):
            continue
        for path, process in _processing(("data_configs", name), config):
            for key, (since, until) in PROCESSING.items():
                if key in process:
                    yield (*path, key), key, since, until
        yield from _no_length(("data_configs", name), config, last)
        for key in ("load_dataset_config", "pre_process_data_config"):
            below = config.get(key)
            if isinstance(below, dict) and below.keys() - {"type", "params", "name"}:
                yield ("data_configs", name, key), f"{key} without `params`", JULY, MAIN


def _no_length(path: Path, config: dict[str, object], last: Version) -> Iterator[Sign]:
    """Yield texts that are cut to no length: up to 0.6.2 the length was required."""
    above = (*path, "pre_process_data_config")
    for place, process in _processing(path, config):
        has_length = process.keys() & {"source_max_len", "max_seq_len"}
        if place[: len(above)] == above and process.keys() & TEXTS and not has_length:
            yield place, "texts without a length", JULY, last


def _processing(path: Path, config: dict[str, object]) -> Iterator[tuple[Path, dict[str, object]]]:
    """Yield where a data configuration may hold what makes tokens of rows, with its path."""
    for way in (
        ("pre_process_data_config",),
        ("pre_process_data_config", "params"),
        ("params_config", "component_kwargs", "pre_process_data"),
        ("params_config",),
        ("components", "pre_process_data", "params"),
    ):
        value: object = config
        for part in way:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, dict):
            yield (*path, *way), value


def _passes(root: dict[str, object]) -> Iterator[Sign]:
    passes = root.get("passes")
    for name, value in passes.items() if isinstance(passes, dict) else ():
        path: Path = ("passes", name)
        if isinstance(value, list):
            yield path, "a list of alternatives as a pass", V08, MAIN
        entries = enumerate(value) if isinstance(value, list) else [("", value)]
        for i, entry in entries:
            if isinstance(entry, dict):
                yield from _pass((*path, i) if i != "" else path, entry)


def _pass(path: Path, entry: dict[str, object]) -> Iterator[Sign]:
    kind = str(entry.get("type")).lower()
    if kind in TYPES:
        yield (*path, "type"), str(entry["type"]), *TYPES[kind]
    options, below = entry, path
    if isinstance(config := entry.get("config"), dict):
        options, below = config, (*path, "config")
    elif entry.keys() - set(BESIDE_OPTIONS):
        yield path, "a pass without `config`", JULY, MAIN
    if kind not in TUNING:
        return
    for key, (first, last) in OPTIONS.items():
        if key in options:
            yield (*below, key), key, first, last
    arguments = options.get("training_args")
    if isinstance(arguments, dict):
        for key, first, last in (
            ("evaluation_strategy", V03, V08),
            ("eval_strategy", V090, MAIN),
        ):
            if key in arguments:
                yield (*below, "training_args", key), key, first, last


def _search(root: dict[str, object]) -> Iterator[Sign]:
    engine = root.get("engine")
    for path, table in ((("engine",), engine), ((), root)):
        search = table.get("search_strategy") if isinstance(table, dict) else None
        if isinstance(search, dict):
            for key, first, last in (
                ("search_algorithm", V01, V071),
                ("search_algorithm_config", V02, V071),
                ("sampler", V08, MAIN),
                ("sampler_config", V08, MAIN),
            ):
                if key in search:
                    yield (*path, "search_strategy", key), key, first, last
