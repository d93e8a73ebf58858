"""Evaluators of a workflow -> a benchmark of its results, and after a search the choice."""

from __future__ import annotations

from dataclasses import dataclass, field

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive import data
from olivebuild.recipe.importers.olive.draft import DraftTarget, Ref
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.top.engine import Engine
from olivebuild.recipe.importers.olive.workflow import State, Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder

ANSWERS = {
    "accuracy_score": "accuracy",
    "f1_score": "macro_f1",
    "perplexity": "perplexity",
    "exact_match": "exact_match",
}
"""Part of an accuracy -> the benchmark's figure."""
FIGURES = {"latency": "tpot", "throughput": "tokens_per_second", "size_on_disk": "size"}
"""Type of metric -> the benchmark's figure that comes nearest."""
HIGHER = ("accuracy", "macro_f1", "exact_match", "tokens_per_second")
CODE = (
    "user_script",
    "script_dir",
    "dataloader_func",
    "post_processing_func",
    "evaluate_func",
    "metric_func",
    "func_kwargs",
    "pre_process_func",
)
"""Fields of a metric that name code of the user's."""
METRIC = (
    "name",
    "type",
    "sub_types",
    "user_config",
    "data_config",
    "backend",
    "sample_log_num",
    "sample_log_dir",
)
SUB_TYPE = (
    "name",
    "priority",
    "higher_is_better",
    "goal",
    "metric_config",
)
LATENCY = {"warmup_num": "latency.warmup", "repeat_test_num": "latency.repeats"}


@dataclass(kw_only=True)
class Wanted:
    """Benchmark that the metrics of an evaluator ask for."""

    figures: dict[str, tuple[int, list[Path]]] = field(default_factory=dict)
    """Figure -> its priority and the leaves that ask for it."""
    gates: list[tuple[str, tuple[Path, Path]]] = field(default_factory=list)
    """Gates, and the leaves that ask for them; `{base}` stands for the input model."""
    rows: Ref | None = None


def map_evaluators(workflow: Workflow, engine: Engine, start: State, results: list[State]) -> None:
    """Write a benchmark for the evaluator that the engine names, and claim all evaluators."""
    table = workflow.root.section("evaluators")
    section = _used(workflow, engine, table)
    if section is not None and results:
        wanted = _wanted(workflow, section)
        _benchmark(workflow, engine, section, wanted, start, results)
    elif section is not None:
        workflow.ledger.no_effect(section.path, "no pass makes anything to measure")
    holder = engine.holder("evaluate_input_model")
    if holder is not None and workflow.ledger.unclaimed(holder.at("evaluate_input_model")):
        holder.no_effect("evaluate_input_model", "no evaluator measures anything here")
    for name in table.value if table is not None else ():
        assert table is not None
        if workflow.ledger.unclaimed(table.at(name)):
            table.no_effect(name, "`evaluator` does not name it")
    if table is not None and not table.value:
        workflow.ledger.no_effect(table.path, "it is empty")


def _used(workflow: Workflow, engine: Engine, table: Section | None) -> Section | None:
    """Return the evaluator that the engine names or describes; None if none, or refused."""
    holder = engine.holder("evaluator")
    if holder is None:
        return None
    value, path = holder.value["evaluator"], holder.at("evaluator")
    if value is None:
        holder.no_effect("evaluator", "it is null")
        return None
    if isinstance(value, dict):
        return Section(workflow.ledger, path, value)
    if table is not None and isinstance(value, str) and value in table:
        section = table.section(value)
        if section is not None and not section.value:
            holder.no_effect("evaluator", "it measures nothing")
            workflow.ledger.no_effect(section.path, "it is empty")
            return None
        workflow.ledger.mapped(path, "bench" if section is not None else "")
        return section
    if isinstance(value, Placeholder):
        holder.no_effect("evaluator", "which one is left open")
        return None
    holder.refused(
        "evaluator",
        f"there is no evaluator {value!r}",
        did_you_mean(str(value), table.value) if table else "describe it under `evaluators`",
    )
    return None


def _wanted(workflow: Workflow, section: Section) -> Wanted:
    wanted = Wanted()
    kind = section.value.get("type")
    if kind is not None:
        section.ledger.refused(
            section.path,
            f"{kind} runs tasks of a library of its own",
            "a `command` target can run it, and `metrics:` of the benchmark shows its figures",
            fatal=False,
        )
        return wanted
    for path, item in section.items("metrics"):
        if isinstance(item, dict):
            _metric(workflow, Section(section.ledger, path, item), wanted)
        else:
            section.ledger.refused(path, "a metric that is no mapping", "give it a `type`")
    for key in ("user_script", "script_dir", "type_args", "name"):
        if key in section:
            section.no_effect(key, "no code of a configuration is run")
    section.unknown(("metrics", "type", "type_args", "user_script", "script_dir", "name"))
    return wanted


def _metric(workflow: Workflow, metric: Section, wanted: Wanted) -> None:
    """Note the figures of a metric, and claim its leaves."""
    kind = str(metric.value.get("type")).lower()
    if "name" in metric:
        metric.no_effect("name", "figures have names of their own")
    if "data_config" in metric:
        _rows(workflow, metric, kind, wanted)
    for key in ("backend", "sample_log_num", "sample_log_dir"):
        if key in metric:
            metric.no_effect(key, "figures are computed here, and every answer is kept")
    has_code = _user_config(metric, kind)
    if kind == "custom" or (kind == "accuracy" and has_code):
        metric.ledger.refused(
            metric.path,
            "it is measured by code of its own",
            "write a function of an answer and a row, and `score: eval.py:function`",
            fatal=False,
        )
        return
    if kind not in (*FIGURES, "accuracy"):
        place = metric.at("type") if "type" in metric else metric.path
        names = ("accuracy", "latency", "throughput", "size_on_disk", "custom")
        metric.ledger.refused(
            place, f"there is no type of metric {kind!r}", did_you_mean(kind, names)
        )
        metric.ledger.no_effect(metric.path, "its metric is refused")
        return
    if kind == "accuracy":
        metric.mapped("type", "bench.data")
    else:
        metric.mapped("type", "bench.latency", f"measured as {FIGURES[kind]} and its like")
    _sub_types(metric, kind, wanted)
    metric.unknown((*METRIC, "sub_type", "priority_rank"))


def _rows(workflow: Workflow, metric: Section, kind: str, wanted: Wanted) -> None:
    value = metric.value["data_config"]
    if isinstance(value, str) and kind == "accuracy":
        rows = data.map_data(workflow, value, at=metric.at("data_config"), use="judge")
        wanted.rows = wanted.rows or rows
    elif value is None:
        metric.no_effect("data_config", "it is null")
    else:
        metric.no_effect(
            "data_config", "times are measured on prompts of `latency.prompt_tokens` tokens"
        )


def _user_config(metric: Section, kind: str) -> bool:
    """Claim a metric's user_config, and return whether it names code."""
    section = metric.section("user_config") if "user_config" in metric else None
    if section is None:
        if "user_config" in metric:
            metric.no_effect("user_config", "it is null")
        return False
    code = [key for key in CODE if section.value.get(key) is not None]
    for key in section.value:
        if key in CODE and kind == "latency":
            section.no_effect(key, "no code of a configuration is run; prompts are made here")
        elif key in CODE:
            section.no_effect(key, "no code of a configuration is run")
        else:
            section.no_effect(key, "how models are run for measuring is the benchmark's own")
    if not section.value:
        metric.ledger.no_effect(section.path, "it is empty")
    return bool(code)


def _sub_types(metric: Section, kind: str, wanted: Wanted) -> None:
    """Note the parts of a metric."""
    for path, item in metric.items("sub_types"):
        if not isinstance(item, dict):
            metric.ledger.refused(path, "a part that is no mapping", 'write {"name": "avg"}')
            continue
        _sub_type(Section(metric.ledger, path, item), kind, wanted)
    if "sub_type" in metric:
        _name(metric, "sub_type", kind, wanted, priority=_priority(metric, "priority_rank"))


def _sub_type(section: Section, kind: str, wanted: Wanted) -> None:
    figure = _name(section, "name", kind, wanted, priority=_priority(section, "priority"))
    if "higher_is_better" in section:
        section.no_effect("higher_is_better", "which way a figure is better is known of each")
    if "metric_config" in section:
        section.no_effect(
            "metric_config", "how often is measured, `latency:` of the benchmark says"
        )
    if "goal" in section:
        _goal(section, figure, wanted)
    section.unknown(SUB_TYPE)


def _name(section: Section, key: str, kind: str, wanted: Wanted, *, priority: int) -> str:
    """Note the figure of a part; "" if there is none."""
    name = section.get(key, str)
    if name is None or isinstance(name, Placeholder):
        if key not in section:
            section.ledger.refused(section.path, "a part without a name", 'write {"name": "avg"}')
        elif name is not None or section.value[key] is None:
            section.no_effect(key, "it is left open")
        return ""
    figure = ANSWERS.get(name, "") if kind == "accuracy" else FIGURES[kind]
    if not figure:
        section.refused(
            key, f"the benchmark has no figure {name!r}", "`score: eval.py:function`", fatal=False
        )
        return ""
    before = wanted.figures.get(figure, (0, []))
    best = min((p for p in (before[0], priority) if p > 0), default=0)
    wanted.figures[figure] = (best, [*before[1], section.at(key)])
    if kind == "latency" and name != "avg":
        section.mapped(key, "bench.latency", "its spread is in the report")
    else:
        section.mapped(key, f"bench.{figure}")
    return figure


def _priority(section: Section, key: str) -> int:
    value = section.get(key, int) if key in section else None
    if key in section and section.ledger.unclaimed(section.at(key)):
        section.no_effect(key, "without a search every figure is only measured")
    return value if isinstance(value, int) and value > 0 else 0


def _goal(section: Section, figure: str, wanted: Wanted) -> None:
    """Note a goal as a gate where one says the same."""
    goal = section.section("goal")
    if goal is None:
        section.no_effect("goal", "it is null") if section.value["goal"] is None else None
        return
    kind, value = goal.get("type", str), goal.get("value", float)
    if kind == "threshold" and isinstance(value, float) and figure:
        compare = ">=" if figure in HIGHER else "<="
        unit = " ms" if figure == "tpot" else " B" if figure == "size" else ""
        wanted.gates.append((f"{figure} {compare} {value:g}{unit}", _both(goal)))
    elif kind == "max-degradation" and isinstance(value, float) and figure:
        wanted.gates.append((f"{figure} drop vs {{base}} <= {value:g}", _both(goal)))
    elif goal.value and goal.ledger.unclaimed(goal.path):
        section.ledger.refused(
            goal.path,
            "a goal that compares with the input model in a way that no gate does",
            "write a gate such as 'tokens_per_second >= 20'",
            fatal=False,
        )


def _both(goal: Section) -> tuple[Path, Path]:
    """Return the leaves of a goal, claimed for the time being."""
    for key in ("type", "value"):
        goal.no_effect(key, "nothing is measured")
    goal.unknown(("type", "value"))
    return goal.at("type"), goal.at("value")


def _refuse(workflow: Workflow, wanted: Wanted, fact: str, hint: str) -> None:
    """Refuse the goals that no gate can judge."""
    for _, paths in wanted.gates:
        for path in paths:
            workflow.ledger.refused(path, fact, hint, fatal=False)


def _benchmark(
    workflow: Workflow,
    engine: Engine,
    section: Section,
    wanted: Wanted,
    start: State,
    results: list[State],
) -> None:
    """Write the benchmark, and the choice if there is a search."""
    ledger = workflow.ledger
    if not wanted.figures:
        return
    rows = wanted.rows or _some_rows(workflow)
    models = list(dict.fromkeys(state.result for state in results))
    judged = [m for m in models if workflow.draft.targets[m].kind != "adapter"] or models
    if rows is None:
        for _, paths in wanted.figures.values():
            for path in paths:
                ledger.refused(
                    path,
                    "there are no rows to measure with",
                    "add a data set, and a benchmark of its rows",
                    fatal=False,
                )
        return
    bench = workflow.draft.target("bench", "benchmark", section.path)
    if _base_too(workflow, engine, bench):
        judged = [start.model, *(m for m in judged if m != start.model)]
    bench.set("models", [Ref(target=m) for m in judged])
    note = "" if wanted.rows else "Olive measures on data of its own; the rows that there are"
    bench.set("data", rows, note=note)
    if workflow.search:
        _choice(workflow, wanted, bench, start, results)
    else:
        for _, leaves in wanted.gates:
            for path in leaves:
                ledger.meant_else(path, "goals only steer a search, and this file searches nothing")


def _base_too(workflow: Workflow, engine: Engine, bench: DraftTarget) -> bool:
    """Return whether the input model is measured beside the results."""
    holder = engine.holder("evaluate_input_model")
    value = holder.get("evaluate_input_model", bool) if holder is not None else None
    if holder is not None and workflow.ledger.unclaimed(holder.at("evaluate_input_model")):
        holder.mapped("evaluate_input_model", f"{bench.name}.models")
    return value if isinstance(value, bool) else workflow.generation.since(0, 3)


def _some_rows(workflow: Workflow) -> Ref | None:
    """Return the rows of the first data set, to measure times with."""
    for target in workflow.draft.targets.values():
        if target.kind == "dataset":
            return Ref(target=target.name, output="train")
    return None


def _choice(
    workflow: Workflow, wanted: Wanted, bench: DraftTarget, start: State, results: list[State]
) -> None:
    """Write the choice of the best ONNX model, by the figure that comes first."""
    onnx = [s for s in results if s.onnx]
    if not onnx:
        _refuse(workflow, wanted, "a choice is among ONNX models", "add a ModelBuilder pass")
        return
    best = min(wanted.figures, key=lambda f: wanted.figures[f][0] or 99)
    priority, paths = wanted.figures[best]
    choice = workflow.draft.target("best", "choice", *paths[:1])
    choice.set("by", Ref(target=bench.name))
    choice.set("best", best, *paths[:1])
    for path in paths:
        workflow.ledger.mapped(path, f"{choice.name}.best" if priority else "")
    gates = []
    for text, leaves in wanted.gates:
        base = [str(m) for m in _as_list(bench.get("models"))]
        if "{base}" in text and start.model not in base:
            fact = "it compares with the input model, which is not measured"
            _refuse(workflow, wanted, fact, "set evaluate_input_model")
            continue
        gates.append(text.replace("{base}", start.model))
        for path in leaves:
            workflow.ledger.mapped(path, f"{choice.name}.gates")
    if gates:
        choice.set("gates", gates, *(leaves[1] for _, leaves in wanted.gates))
    workflow.draft.default = [choice.name]


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
