"""`data_configs` of all generations -> data sets, and how their rows become token sequences."""

from __future__ import annotations

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.draft import Ref
from olivebuild.recipe.importers.olive.rows.maker import MADE_UP, Corpus, Maker
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder

INPUT_MODEL = "__input_model_data_config__"
"""The name under which passes up to 0.5 find hf_config.dataset."""


def corpus(
    workflow: Workflow, options: Section, key: str, *, held_out: bool = False
) -> Corpus | None:
    """Return the data set that an option such as train_data_config names.

    `held_out`: all its rows are for evaluation. None where there is no such option, or none of
    this name (then refused); else the caller claims a name.
    """
    if options.value.get(key) is None:
        return None
    config = _find(workflow, options, key)
    if config is None:
        return None
    name = (*config.path, "held out" if held_out else "train")
    rows = workflow.data.get(str(name))
    if not isinstance(rows, Corpus):
        rows = Maker(workflow, config).corpus(held_out=held_out)
        workflow.data[str(name)] = rows
    return rows


def map_data(workflow: Workflow, name: str, *, at: Path, use: str) -> Ref | None:
    """Return the rows of a data configuration for a benchmark or an evaluation, else for training.

    Claims the leaf `at` that names it. None where there is none of this name (then refused), or
    its rows are made up.
    """
    options = Section(workflow.ledger, at[:-1], {str(at[-1]): name})
    config = _configs(workflow).get(name)
    kind = config.value.get("type") if config else None
    if isinstance(kind, str) and kind.lower() in map(str.lower, MADE_UP):
        workflow.ledger.no_effect(at, f"{kind} makes up rows")
        return None
    rows = corpus(workflow, options, str(at[-1]), held_out=use != "train")
    if rows is None:
        return None
    workflow.ledger.mapped(at, rows.target)
    for option in (*rows.sequences.fields.values(), rows.sequences.length):
        for path in option.paths:
            workflow.ledger.no_effect(path, "rows are judged whole")
    return Ref(target=rows.target, output="train" if use == "train" else "test")


def finish_data(workflow: Workflow) -> None:
    """Claim the data configurations that nothing here reads."""
    root = workflow.root
    for key in ("data_configs", "data_config", "data_root"):
        if key in root:
            root.no_effect(key, "nothing that is built here reads it")


def _find(workflow: Workflow, options: Section, key: str) -> Section | None:
    """Return the configuration that a reference names; refuse the reference else."""
    value = options.value[key]
    if isinstance(value, dict):
        return options.section(key)
    name = options.get(key, str)
    if name is None:
        return None
    configs = _configs(workflow)
    if isinstance(name, Placeholder):
        if len(configs) == 1:
            return next(iter(configs.values()))
        options.refused(key, "which data is read is left open", "name one of data_configs")
        return None
    if name in configs:
        return configs[name]
    if name == INPUT_MODEL and (config := _of_model(workflow)) is not None:
        return config
    options.refused(
        key,
        f"there is no data configuration {name!r}",
        did_you_mean(name, configs) if configs else "write it in data_configs",
    )
    return None


def _configs(workflow: Workflow) -> dict[str, Section]:
    """Return the data configurations: of a mapping by key, of a list by their names."""
    result: dict[str, Section] = {}
    for key in ("data_configs", "data_config"):
        value = workflow.root.value.get(key)
        if isinstance(value, dict):
            for name, entry in value.items():
                if isinstance(entry, dict):
                    result[name] = Section(workflow.ledger, (key, name), entry)
        elif isinstance(value, list):
            for i, entry in enumerate(value):
                if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                    _add(result, entry["name"], Section(workflow.ledger, (key, i), entry))
        elif value is not None and key == "data_configs":
            workflow.root.wrong(key, "a list of data configurations, or a mapping")
    return result


def _add(configs: dict[str, Section], name: str, section: Section) -> None:
    """Add a data configuration of a list; refuse the second of a name."""
    if name in configs:
        section.refused(
            "name", f"two data configurations are called {name!r}", "give each its own name"
        )
    else:
        configs[name] = section


def _of_model(workflow: Workflow) -> Section | None:
    """Return hf_config.dataset as a data configuration whose parameters stand flat."""
    model = workflow.root.section("input_model")
    options = model.section("config") if model else None
    hf_config = options.section("hf_config") if options else None
    dataset = hf_config.section("dataset") if hf_config else None
    if dataset is None:
        return None
    return _OfModel(workflow.ledger, dataset.path[:-1], {"params_config": dataset.value})


class _OfModel(Section):
    """A data configuration whose parameters are hf_config.dataset."""

    def at(self, key: str) -> Path:
        return (*self.path, "dataset" if key == "params_config" else key)
