"""LoRA, QLoRA, LoftQ, DoRA, LoHa and LoKr -> adapters."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from olivebuild.recipe.importers.olive.better import HOLDOUT
from olivebuild.recipe.importers.olive.data import corpus
from olivebuild.recipe.importers.olive.draft import Ref
from olivebuild.recipe.importers.olive.options import Option, Options
from olivebuild.recipe.importers.olive.passes.arguments import Arguments
from olivebuild.recipe.importers.olive.rows.maker import Corpus
from olivebuild.recipe.importers.olive.table import ignored, sections
from olivebuild.recipe.importers.olive.workflow import Pass, State, Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder

METHODS = {
    "lora": "lora",
    "dora": "lora",
    "qlora": "qlora",
    "loftq": "loftq",
    "loha": "loha",
    "lokr": "lokr",
}
BITS4 = ("qlora", "loftq")
PRODUCTS = ("loha", "lokr")
PHI3 = re.compile(r"phi-?3(?:\.5)?-(?:mini|medium)", re.IGNORECASE)
PHI3_MODULES = ["o_proj", "qkv_proj"]


def map_adapter(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Write the adapter that a pass trains, and its data set."""
    options = pass_.options
    if "training_loop_func" in options:
        options.refused(
            "training_loop_func",
            "a function of a script would train",
            "say what it does in training_args, as releases from 0.4 on do",
        )
        options.ledger.no_effect(options.path, "its pass is refused")
        return state
    if state.onnx:
        pass_.section.refused(
            "type", "a training behind the conversion to ONNX", "let it run before that"
        )
        options.ledger.no_effect(options.path, "its pass is refused")
        return state
    return _Adapter(workflow, state, pass_).write()


class _Adapter:
    """Writes one adapter."""

    def __init__(self, workflow: Workflow, state: State, pass_: Pass) -> None:
        self.workflow = workflow
        self.state = state
        self.pass_ = pass_
        self.name = sections()[pass_.type]
        self.method = METHODS[pass_.type]
        self.rows = corpus(workflow, pass_.options, "train_data_config")
        self.target = workflow.draft.target(pass_.name, "adapter", pass_.section.path)
        self.options = Options(workflow, pass_.options, self.name)
        self.generation = workflow.generation

    def write(self) -> State:
        target = self.target
        target.set("model", Ref(target=self.state.model))
        if self.state.adapter and self.generation.since(0, 7):
            self.pass_.section.refused(
                "type",
                f"the model has the adapter {self.state.adapter} already: Olive stops here",
                "put MergeAdapterWeights between them, or import a file for each",
            )
        elif self.state.adapter:
            does = f"Olive trains on the base again, and loses {self.state.adapter}"
            target.comment(f"{does}.")
            place = self.pass_.section.at("type")
            self.workflow.ledger.meant_else(place, does, f"{target.name}.model")
        rows = self.rows
        self._data()
        if self.method != "lora":
            target.set("method", self.method, self.pass_.section.at("type"))
        self._shape()
        self._quantisation()
        self._modules()
        self._products()
        if rows is not None and not rows.apart:
            self._sequences(rows)
        elif rows is not None:
            self._apart(rows)
        arguments = Arguments(self.workflow, self.pass_.options, target)
        arguments.write()
        loaded = self._dtype()
        self._evaluation(arguments, rows)
        arguments.rest()
        self.options.rest()
        return replace(self.state, adapter=target.name, dtype=loaded)

    def _data(self) -> None:
        options, key = self.pass_.options, "train_data_config"
        if self.rows is None:
            self.target.set("data", Placeholder(key), note="Olive requires it")
            if options.value.get(key) is None:
                place = options.at(key) if key in options else self.pass_.section.at("type")
                self.workflow.ledger.refused(
                    place, f"{self.name} without {key}", "name a data configuration"
                )
            return
        rows = Ref(target=self.rows.target, output="train")
        self.target.set("data", rows, options.at(key))
        self._claim_name(key, "data")

    def _claim_name(self, key: str, field: str) -> None:
        """Claim the name of a data configuration; one that is described there claims its own."""
        if not isinstance(self.pass_.options.value[key], dict):
            self.pass_.options.mapped(key, f"{self.target.name}.{field}")

    def _shape(self) -> None:
        """Write rank, alpha and dropout."""
        new = self.generation.since(0, 8) or "lora_r" not in self.options.fields
        for field, key, old in (("r", "r", "lora_r"), ("alpha", "alpha", "lora_alpha")):
            option = self.options.put(self.target, field, key if new else old, float_or_int(field))
            if new and old in self.pass_.options:
                does = f"{ignored(self.workflow, old)}: {field} is {option.value}"
                self.pass_.options.meant_else(old, does)
        if self.method in PRODUCTS:
            if "lora_dropout" in self.pass_.options:
                self.pass_.options.no_effect("lora_dropout", "peft's LoHa and LoKr read it nowhere")
        else:
            self.options.put(self.target, "dropout", "lora_dropout", float)
        if self.pass_.type == "dora":
            self.target.set("dora", True, self.pass_.section.at("type"))

    def _quantisation(self) -> None:
        if self.method not in BITS4:
            return
        self.options.put(self.target, "quantisation.type", "quant_type", str)
        self.options.put(self.target, "quantisation.double", "double_quant", bool)
        if self.method == "loftq":
            rounds = self.options.read("loftq_iter", int)
            if rounds.given:
                self.options.write(self.target, "loftq_iter", rounds)

    def _modules(self) -> None:
        options = self.pass_.options
        wanted = options.value.get("target_modules") or None
        if self.method in BITS4:
            if wanted is not None:
                does = f"{self.name} adapts all linear layers but the head, whatever it says"
                options.meant_else("target_modules", does)
            return
        if wanted == "all-linear" or isinstance(wanted, Placeholder):
            self._put_modules(wanted, options.at("target_modules"))
        elif wanted is not None:
            texts = options.texts("target_modules")
            if texts:
                self._put_modules(texts, options.at("target_modules"))
        elif self.method == "lora":
            self._default_modules()
        if wanted is None and "target_modules" in options:
            options.no_effect("target_modules", "null: the default")

    def _put_modules(self, value: object, path: Path) -> None:
        self.target.set("modules", value, path)
        self.workflow.ledger.mapped(path, f"{self.target.name}.modules")

    def _default_modules(self) -> None:
        if not self._is_phi3():
            self.target.set(
                "modules", "peft-default", note="Olive's default: peft's table by model type"
            )
            return
        name = self.generation.name
        note = f"Olive {name}'s default for Phi-3"
        if not self.generation.since(0, 7):
            note = f"Olive {name} fails without target_modules for Phi-3; 0.7 takes these"
        self.target.set("modules", PHI3_MODULES, note=note)

    def _is_phi3(self) -> bool:
        """Return whether the base is known to be a Phi-3: by its configuration, else its name."""
        base = self.workflow.draft.targets.get(self.state.model)
        source = base.get("source") if base else None
        if not isinstance(source, str):
            return False
        if not source.startswith("hf:"):
            try:
                text = (self.workflow.out / source / "config.json").read_text("utf-8")
                config = json.loads(text)
            except (OSError, ValueError):
                pass
            else:
                return isinstance(config, dict) and config.get("model_type") == "phi3"
        return PHI3.search(source) is not None

    def _products(self) -> None:
        """Write what LoHa and LoKr have besides."""
        if self.method not in PRODUCTS:
            return
        for key, kind in (
            ("rank_dropout", float),
            ("module_dropout", float),
            ("rank_dropout_scale", bool),
            ("decompose_both", bool),
            ("decompose_factor", int),
        ):
            if key in self.options.fields and key in self.pass_.options:
                self.options.put(self.target, key, key, kind)
        options = self.pass_.options
        names = options.texts("exclude_modules")
        if names is not None:
            self.target.set("exclude", names, options.at("exclude_modules"))
            options.mapped("exclude_modules", f"{self.target.name}.exclude")
        for key, field in (
            ("layers_to_transform", "layers"),
            ("rank_pattern", "rank_pattern"),
            ("alpha_pattern", "alpha_pattern"),
            ("init_weights", "init_weights"),
        ):
            value = options.value.get(key)
            if value not in (None, {}):
                self.target.set(field, value, options.at(key))
                options.mapped(key, f"{self.target.name}.{field}")
            elif key in options:
                options.no_effect(key, "the same as leaving it out")

    def _sequences(self, rows: Corpus) -> None:
        """Write how rows become token sequences, and the length."""
        for key, option in rows.sequences.fields.items():
            self._put(f"sequences.{key}", option)
        if rows.sequences.form != "pairs":
            self._length(rows.sequences.length)
        elif rows.sequences.loss is not None:
            self._put("training.loss", rows.sequences.loss)

    def _apart(self, rows: Corpus) -> None:
        """Write the length alone: rows stand apart, and completions are learnt."""
        for key, option in rows.sequences.fields.items():
            for path in option.paths:
                because = f"each row is learnt by itself, so there is no {key} to choose"
                self.workflow.ledger.no_effect(path, because)
        self._length(rows.sequences.length)

    def _length(self, option: Option) -> None:
        if option.value is not None:
            self._put("training.max_length", option)

    def _put(self, field: str, option: Option) -> None:
        self.target.set(field, option.value, *option.paths, note=option.note)
        for path in option.paths:
            self.workflow.ledger.mapped(path, f"{self.target.name}.{field}")

    def _dtype(self) -> str:
        """Write the number format of the training, and return the one the base is loaded in."""
        ledger = self.workflow.ledger
        if "torch_dtype" in self.options.fields:
            option = self.options.read("torch_dtype", str)
        else:
            option = Option(value="bfloat16", note=f"Olive {self.generation.name}'s default")
        if self.method in BITS4 and (products := self.options.read("compute_dtype", str)).given:
            for path in option.paths:
                if option.value != products.value:
                    ledger.no_effect(path, "compute_dtype says in what products are computed")
                else:
                    ledger.mapped(path, f"{self.target.name}.training.dtype")
            option = products
        value = option.value
        if option.text in ("float16", "fp16"):
            does = "the base is loaded in float32, and products are computed in float16 beside it"
            self.target.set("training.dtype", "float32", *option.paths, note=f"Olive: {does}")
            for path in option.paths:
                ledger.meant_else(path, does, f"{self.target.name}.training.dtype")
            return "float32"
        names = {"fp32": "float32", "bf16": "bfloat16"}
        if option.text is not None:
            value = names.get(option.text, option.text)
            if value not in ("float32", "bfloat16", "auto"):
                for path in option.paths:
                    ledger.refused(
                        path,
                        f"{option.text!r} is no number format of a training",
                        "write bfloat16, float16 or float32",
                    )
                value = "bfloat16"
        self._put("training.dtype", replace(option, value=value))
        return str(value)

    # -- evaluation

    def _evaluation(self, arguments: Arguments, rows: Corpus | None) -> None:
        options = self.pass_.options
        size = self._held_out_size()
        has_data = options.value.get("eval_data_config") is not None
        held_out = has_data or size.value is not None
        strategy = arguments.strategy(held_out=held_out)
        if has_data:
            for path in size.paths:
                self.workflow.ledger.no_effect(path, "eval_data_config wins")
            if strategy.value == "no":
                options.no_effect("eval_data_config", "the strategy no: it is never looked at")
            else:
                self._held_out_data()
        elif size.value is not None:
            self._held_out_sequences(size, rows, strategy)
        if "eval_data_config" in options and not has_data:
            options.no_effect("eval_data_config", "null: no data is named")
        arguments.evaluation(strategy)

    def _held_out_size(self) -> Option:
        """Return how much is held out: a share below 1, a count from 1 on; None for nothing."""
        if "eval_dataset_size" not in self.options.fields:
            return Option(value=None)
        option = self.options.read("eval_dataset_size", float)
        number = option.number
        if number is None or not option.given:
            return option
        if number >= 1:
            return replace(option, value=int(number))
        if number <= 0:
            for path in option.paths:
                if number:
                    self.workflow.ledger.refused(
                        path, "less than nothing is held out", "a share, or a count of sequences"
                    )
                else:
                    self.workflow.ledger.no_effect(path, "0: nothing is held out")
            return Option(value=None)
        return option

    def _held_out_data(self) -> None:
        options = self.pass_.options
        rows = corpus(self.workflow, options, "eval_data_config", held_out=True)
        if rows is not None:
            self._claim_sequences(rows)
            self._claim_name("eval_data_config", "eval.data")
            self.target.set(
                "eval.data",
                Ref(target=rows.target, output="test"),
                options.at("eval_data_config"),
            )

    def _claim_sequences(self, rows: Corpus) -> None:
        sequences = rows.sequences
        for option in (*sequences.fields.values(), sequences.length):
            for path in option.paths:
                because = "held-out rows become sequences as those of the training do"
                self.workflow.ledger.no_effect(path, because)

    def _held_out_sequences(self, size: Option, rows: Corpus | None, strategy: Option) -> None:
        """Hold sequences out, or for `--better` rows of the data set."""
        if rows is None or not rows.apart:
            self._put("sequences.holdout", size)
            if strategy.value == "no":
                self.target.comment("What is held out is never looked at: Olive's default.")
            return
        share = size.value if size.open or (size.number or 0) < 1 else HOLDOUT
        data = self.workflow.draft.targets[rows.target]
        data.set("holdout", share, *size.paths)
        for path in size.paths:
            self.workflow.ledger.mapped(path, f"{rows.target}.holdout")
        if strategy.value != "no":
            self.target.set("eval.data", Ref(target=rows.target, output="test"), *size.paths)


def float_or_int(field: str) -> type[int] | type[float]:
    return int if field == "r" else float
