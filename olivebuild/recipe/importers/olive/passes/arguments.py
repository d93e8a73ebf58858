"""Training arguments of Olive's passes -> `training` and `eval` of an adapter."""

from __future__ import annotations

import math

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.better import MOST_EPOCHS, WARMUP
from olivebuild.recipe.importers.olive.draft import DraftTarget
from olivebuild.recipe.importers.olive.ledger import Ledger
from olivebuild.recipe.importers.olive.options import Option, Options
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder

SCHEDULERS = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
}
ADAMW = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_xla",
    "adamw_hf",
    "adamw_apex_fused",
    "paged_adamw",
    "paged_adamw_32bit",
)
ADAMW_8BIT = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit")


class Arguments:
    """The training arguments of one pass; those in `extra_args` stand beside the others."""

    def __init__(self, workflow: Workflow, options: Section, target: DraftTarget) -> None:
        self.workflow = workflow
        self.target = target
        section = options.section("training_args")
        values = dict(section.value) if section else {}
        extra = section.section("extra_args") if section else None
        values.pop("extra_args", None)
        if section is not None and section.value.get("extra_args", ...) is None:
            section.no_effect("extra_args", "null: no arguments")
        for key, value in extra.value.items() if extra else ():
            if extra and key in values:
                extra.refused(key, f"{key} stands beside extra_args, too", "write it once")
            values.setdefault(key, value)
        path = section.path if section else options.path
        self.section = _Arguments(workflow.ledger, path, values, extra)
        self.options = Options(workflow, self.section, "training_args")
        if "training_args" in options and options.value["training_args"] is None:
            options.no_effect("training_args", "null: every argument has its default")

    def write(self) -> None:
        """Write all but the evaluation."""
        put = self.options.put
        put(self.target, "training.lr", "learning_rate", float)
        self._schedule()
        self._steps()
        self._batch()
        for key, field in (
            ("weight_decay", "weight_decay"),
            ("adam_beta2", "beta2"),
            ("max_grad_norm", "max_grad_norm"),
        ):
            # Their defaults are ours, too.
            if key in self.section:
                put(self.target, f"training.{field}", key, float)
        put(self.target, "training.seed", "seed", int)
        self._data_seed()
        self._optimiser()

    def _data_seed(self) -> None:
        option = self.options.read("data_seed", int)
        if option.value != "seed":
            self.options.write(self.target, "training.data_seed", option)

    def _optimiser(self) -> None:
        option = self.options.read("optim", str)
        for path in option.paths:
            name = str(option.value).lower()
            if option.open or name in ADAMW:
                because = "training uses AdamW with states in 32 bits"
            elif name in ADAMW_8BIT:
                because = "AdamW's states are kept in 32 bits here: more memory, and more exact"
            else:
                hint = did_you_mean(name, (*ADAMW, *ADAMW_8BIT))
                self.workflow.ledger.refused(path, f"{name}: training uses AdamW here", hint)
                continue
            self.workflow.ledger.no_effect(path, because)

    def _schedule(self) -> None:
        """Write scheduler and warm-up; Olive's `constant` has none, whatever warmup_ratio says."""
        option = self.options.read("lr_scheduler_type", str)
        name = (option.text or "").lower()
        if self.workflow.better and name == "constant":
            self._better_schedule(option)
            return
        if option.open:
            self.options.write(self.target, "training.scheduler", option)
        elif name in SCHEDULERS:
            self.options.write(self.target, "training.scheduler", option, SCHEDULERS[name])
        else:
            for path in option.paths:
                self.workflow.ledger.refused(
                    path, f"{name!r} is no schedule here", f"one of {', '.join(SCHEDULERS)}"
                )
        self._warmup(name)

    def _better_schedule(self, option: Option) -> None:
        for path in option.paths:
            self.workflow.ledger.mapped(path, f"{self.target.name}.training.scheduler")
        self.target.set(
            "training.warmup_ratio", WARMUP, note="the rate falls: constant ends in noise"
        )
        for key in ("warmup_ratio", "warmup_steps"):
            if key in self.section:
                self.section.no_effect(key, "constant has no warm-up in Olive")

    def _warmup(self, scheduler: str) -> None:
        steps = self.options.read("warmup_steps", int)
        ratio = self.options.read("warmup_ratio", float)
        if scheduler == "constant":
            for path in (*steps.paths, *ratio.paths):
                self.workflow.ledger.no_effect(path, "the schedule constant has no warm-up")
        elif steps.open or (steps.number or 0) > 0:
            self.options.write(self.target, "training.warmup", steps)
            for path in ratio.paths:
                self.workflow.ledger.no_effect(path, "warmup_steps wins")
        else:
            for path in steps.paths:
                self.workflow.ledger.no_effect(path, "0: warmup_ratio says it")
            self.options.write(self.target, "training.warmup_ratio", ratio)

    def _steps(self) -> None:
        """Write `steps`, or `epochs` where max_steps is not above 0."""
        steps = self.options.read("max_steps", int)
        epochs = self.options.read("num_train_epochs", float)
        if self.workflow.better and not steps.open and (epochs.given or not steps.given):
            self._better_epochs(steps, epochs)
        elif steps.open or (steps.number or 0) > 0:
            self.options.write(self.target, "training.steps", steps)
            self._lost_epochs(steps, epochs)
        else:
            self.options.write(self.target, "training.epochs", epochs)
            for path in steps.paths:
                self.workflow.ledger.mapped(path, f"{self.target.name}.training.epochs")

    def _better_epochs(self, steps: Option, epochs: Option) -> None:
        number = epochs.number
        if number is not None and number > MOST_EPOCHS:
            note = f"more than {MOST_EPOCHS:g} passes over the rows are learnt by heart"
            self.options.write(self.target, "training.epochs", epochs, MOST_EPOCHS, note)
        else:
            self.options.write(self.target, "training.epochs", epochs)
        for path in steps.paths:
            does = "max_steps wins over epochs in Olive; epochs over the rows are recommended"
            self.workflow.ledger.meant_else(path, does)

    def _lost_epochs(self, steps: Option, epochs: Option) -> None:
        for path in epochs.paths:
            if steps.open:
                self.workflow.ledger.mapped(
                    path, f"{self.target.name}.training.steps", "counts only if max_steps is -1"
                )
            elif steps.given:
                does = f"max_steps: {steps.value} wins: that many steps, whatever the epochs"
                self.workflow.ledger.meant_else(path, does)
            else:
                does = (
                    f"Olive {self.workflow.generation.name} hands on max_steps: {steps.value} by "
                    "default, which wins over epochs: write max_steps: -1 to train epochs"
                )
                self.workflow.ledger.meant_else(path, does)

    def _batch(self) -> None:
        """Write examples a step: sequences a device, times accumulated micro-batches."""
        each = self.options.read("per_device_train_batch_size", int)
        times = self.options.read("gradient_accumulation_steps", int)
        paths = (*each.paths, *times.paths)
        note = f"{_shown(each)} a device x {_shown(times)} accumulated"
        if len(paths) < 2:
            note += f", as Olive {self.workflow.generation.name} has it"
        if isinstance(each.value, int) and isinstance(times.value, int):
            value: object = each.value * times.value
        else:
            value = Placeholder(f"{_shown(each)} x {_shown(times)}")
        self.target.set("training.batch", value, *paths, note=note)
        for path in paths:
            self.workflow.ledger.mapped(path, f"{self.target.name}.training.batch")

    # -- evaluation

    def strategy(self, *, held_out: bool) -> Option:
        """Return when held-out sequences are judged: "no", "steps" or "epoch"."""
        key = "eval_strategy" if self.workflow.generation.since(0, 9) else "evaluation_strategy"
        option = self.options.read(key, str)
        if not held_out and not option.open:
            for path in option.paths:
                self.workflow.ledger.no_effect(path, "nothing is held out")
            return Option(value="no")
        return option

    def evaluation(self, strategy: Option) -> None:
        """Write `eval.every` and `eval.keep`."""
        every = self.options.read("eval_steps", float)
        logged = self.options.read("logging_steps", float)
        ledger = self.workflow.ledger
        if strategy.value == "no":
            for path in (*every.paths, *logged.paths):
                ledger.no_effect(path, "the loss of every step is recorded; nothing is evaluated")
            for path in strategy.paths:
                ledger.no_effect(path, "it is what holds where `eval` is left out")
            self._best(written=False)
            return
        chosen = every if every.value is not None else logged
        for path in strategy.paths:
            ledger.mapped(path, f"{self.target.name}.eval.every")
        if strategy.value == "epoch":
            self.target.set("eval.every", 50, *strategy.paths, note="steps: an epoch has no word")
        else:
            self.options.write(self.target, "eval.every", chosen, self._in_steps(chosen))
        for option in (every, logged):
            for path in option.paths:
                ledger.no_effect(path, "the loss of every step is recorded")
        self._best(written=True)

    def _in_steps(self, option: Option) -> object:
        """Return whole steps; a fraction is one of all steps."""
        number = option.number
        if number is None:
            return option.value
        if number >= 1:
            return int(number)
        steps = self.target.get("training.steps")
        if isinstance(steps, int):
            return max(1, math.ceil(steps * number))
        return Placeholder(f"{number:g} of all steps")

    def _best(self, *, written: bool) -> None:
        option = self.options.read("load_best_model_at_end", bool)
        if not written:
            for path in option.paths:
                self.workflow.ledger.no_effect(path, "nothing is evaluated")
            return
        best = option.true or self.workflow.better
        value = option.value if option.open else "best" if best else "last"
        self.options.write(self.target, "eval.keep", option, value)

    def rest(self) -> None:
        if self.section.value:
            self.options.rest()


class _Arguments(Section):
    """Training arguments, some of which stand in `extra_args`."""

    def __init__(
        self, ledger: Ledger, path: Path, value: dict[str, object], extra: Section | None
    ) -> None:
        super().__init__(ledger, path, value)
        self.extra = extra

    def at(self, key: str) -> Path:
        path = (*self.path, key)
        if self.extra is not None and key in self.extra and not self._is_there(path):
            return self.extra.at(key)
        return path

    def _is_there(self, path: Path) -> bool:
        return path in self.ledger.document.places


def _shown(option: Option) -> str:
    return option.value.text if isinstance(option.value, Placeholder) else str(option.value)
