"""An adapter (LoRA or a relative), trained on a data set or brought from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from olivebuild.api.fields import only_one
from olivebuild.api.node import Node
from olivebuild.api.step import Alternatives, Edge, Fields, FileInput, Ref, Step, Target
from olivebuild.core.errors import Problem, RecipeError
from olivebuild.formats.source import Source
from olivebuild.steps.dataset import DatasetFields
from olivebuild.steps.parts import adapter_methods as methods
from olivebuild.steps.parts import frozen_base, rounding
from olivebuild.steps.parts import training as training_parts
from olivebuild.steps.parts.rounding import Aware
from olivebuild.steps.parts.sequences import (
    APART,
    RANDOM,
    Form,
    Positive,
    Sequences,
)
from olivebuild.steps.parts.training import Eval, Fraction, Training


class Quantisation(Fields):
    """4 bits a weight, in blocks of 64. `double`: the blocks' scales are quantised, too."""

    type: Literal["nf4", "fp4"] = "nf4"
    double: bool = True


class AdapterFields(Fields):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    model: Ref | None = None
    data: Ref | None = None
    source: Source | None = None
    trust: bool = False
    """The configuration in `source` may name packages that peft would import."""
    method: Literal["lora", "qlora", "loftq", "loha", "lokr"] = "lora"
    quantisation: Quantisation = Quantisation()
    """Of the base's weights while training with `method: qlora` or `loftq`."""
    loftq_iter: Positive = 1
    """With `method: loftq`: how often weights are quantised and the rest decomposed."""
    r: Positive = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Fraction = 0.0
    rslora: bool = False
    """Scaled by alpha / sqrt(r) instead of alpha / r."""
    dora: bool = False
    """Direction and magnitude of each weight are trained apart."""
    rank_dropout: Fraction = 0.0
    """With `method: loha` or `lokr`: dropout of rows of a weight's change."""
    module_dropout: Fraction = 0.0
    """With `method: loha` or `lokr`: share of passes in which a layer goes without its adapter."""
    rank_dropout_scale: bool = False
    """With `method: lokr`: rows that are left are scaled up, as in dropout."""
    decompose_both: bool = False
    """With `method: lokr`: both factors of the Kronecker product are of low rank."""
    decompose_factor: Annotated[int, Field(ge=-1)] = -1
    """With `method: lokr`: size of the first factor; -1 is near the square root."""
    init_weights: bool | Literal["lycoris"] = True
    """With `method: loha` or `lokr`: begin with no change. `false`: with a random one; `lycoris`
    (`lokr`): with none, by a zero in the second factor.
    """
    modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear", "peft-default"] = (
        "all-linear"
    )
    """Names of the layers that get an adapter. `peft-default`: peft's own choice for the model's
    type, for many query and value alone.
    """
    exclude: list[Annotated[str, Field(min_length=1)]] = []
    layers: list[Annotated[int, Field(ge=0)]] = []
    rank_pattern: dict[str, Positive] = {}
    """Ranks by regular expression. Of several that fit, the first by alphabet counts."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = {}
    aware: Aware | None = None
    """Training sees weights as a conversion to ONNX will round them; the merge does not round."""
    training: Training = Training()
    sequences: Form | Sequences = "rows"
    from_: Ref | None = Field(default=None, alias="from")
    """Another adapter, of the same shape, whose weights training begins with."""
    eval: Eval | None = None
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """End tokens, as text, beside those that were trained (of one from elsewhere: instead of the
    chat template's).
    """

    @property
    def quantises(self) -> bool:
        """Return whether the base is in 4 bits while training."""
        return self.method in methods.QUANTISED

    @field_validator("modules")
    @classmethod
    def _sorted(cls, value: list[str] | str) -> list[str] | str:
        # Order has no meaning here, so it must not change the key.
        return sorted(set(value)) if isinstance(value, list) else value

    @field_validator("exclude", "layers")
    @classmethod
    def _sorted_list(cls, value: list[Any]) -> list[Any]:
        return sorted(set(value))

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _sorted_patterns(cls, value: dict[str, Any]) -> dict[str, Any]:
        # The order in which adapter_config.json has them, and so in which a merge tries them.
        return dict(sorted(value.items()))

    @property
    def cut(self) -> Sequences:
        """The sequences that are trained on, also where the recipe names their form alone."""
        return Sequences(form=self.sequences) if isinstance(self.sequences, str) else self.sequences

    @property
    def loss(self) -> Literal["completion", "turns", "all"]:
        """Return what is learnt, also by the form of the sequences."""
        return self.training.loss if self.cut.form in APART else "all"


def begins_elsewhere(ref: Ref | None, targets: Mapping[str, Target]) -> bool:
    """Return whether a target is an adapter that acts on a base which LoftQ has changed."""
    fields = targets[ref.target].fields if ref and ref.target in targets else None
    return isinstance(fields, AdapterFields) and not fields.source and fields.method == "loftq"


JUDGED_BY = only_one(
    "eval.data",
    "sequences.holdout",
    fact="`eval.data` and `sequences.holdout` don't go together",
    hint="the sequences to judge by come from one or the other",
)
OF_IMPORTS = ("source", "model", "stop", "trust")
"""Fields that an adapter from elsewhere may have."""
TRAINED_OR_NOT = Alternatives(
    groups=(("source",), ("data",)),
    only_with={
        "source": ("trust",),
        "data": tuple(
            info.alias or name
            for name, info in AdapterFields.model_fields.items()
            if name not in (*OF_IMPORTS, "data")
        ),
    },
)


class Adapter(Step):
    kind = "adapter"
    version = 6
    changes: ClassVar = {
        6: "conversations are tokens as the chat template writes them, end of turn included; the "
        "ends travel with the adapter, and an adapter from elsewhere keeps the tokenizer that lies "
        "beside it; each row is trained on as the model computes it alone, also beyond a window or "
        "an original context"
    }
    fields = AdapterFields
    alternatives = (TRAINED_OR_NOT, *training_parts.ALTERNATIVES, JUDGED_BY)
    summary = "an adapter trained on `model` with `data`, or an adapter folder (`source`)"
    spans_nodes = True
    runner = "olivebuild.ml.kinds.adapter"

    def libraries(self, fields: AdapterFields) -> tuple[str, ...]:
        if fields.source:
            return ("safetensors",)
        return (
            *("torch", "transformers", "tokenizers", "peft", "safetensors"),
            *(rounding.LIBRARIES if fields.aware else ()),
            *(("bitsandbytes",) if fields.quantises else ()),
        )

    def takes_gpu(self, fields: AdapterFields) -> bool:
        return fields.source is None

    def computes(self, fields: AdapterFields) -> bool:
        return fields.source is None

    def template(self, fields: AdapterFields) -> str:
        return "" if fields.source else "rendered"

    def reuses_worker(self, fields: AdapterFields) -> bool:
        return fields.source is not None and fields.source.scheme == "file"

    def edges(self, fields: AdapterFields) -> list[Edge]:
        if fields.source or not (fields.model and fields.data):
            return []
        edges = [
            Edge("model", fields.model, ("model", "merged"), field=("model",)),
            Edge("data", fields.data, ("dataset",), "train", ("data",)),
        ]
        if fields.from_:
            edges.append(Edge("from", fields.from_, ("adapter",), field=("from",)))
        if fields.eval and fields.eval.data:
            edges.append(Edge("eval", fields.eval.data, ("dataset",), "test", ("eval", "data")))
        return edges

    def files(self, fields: AdapterFields) -> list[FileInput]:
        if fields.source is None or fields.source.scheme != "file":
            return []
        return [FileInput("source", fields.source.name, ("source",))]

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, AdapterFields)
        # A choice that was not made is left out: it changes nothing for adapters from before there
        # was one.
        stop: dict[str, object] = {"stop": sorted(set(fields.stop))} if fields.stop else {}
        if fields.source:
            return stop
        parameters = {**super().parameters(fields), **stop}
        if not stop:
            parameters.pop("stop")
        # An adapter to begin with is an input; its name says nothing.
        parameters.pop("from_")
        parameters.pop("trust")
        parameters = methods.without_defaults(fields, parameters)
        if fields.aware:
            parameters["aware"] = fields.aware.options()
        if fields.eval:
            parameters["eval"] = fields.eval.model_dump(mode="json", exclude={"data"})
        training = fields.training.parameters()
        parameters.pop("sequences")
        if not fields.cut.is_plain:
            parameters["sequences"] = fields.cut.parameters()
            training["loss"] = fields.loss
        return parameters | {"training": training}

    def check(self, fields: AdapterFields) -> Problem | None:
        if fields.source:
            return _check_import(fields, fields.source)
        if fields.trust:
            return Problem(
                "`trust` is about an adapter from elsewhere",
                "leave it out, or name one in `source`",
            )
        if not (fields.model and fields.data):
            return Problem(
                "an adapter needs `model` and `data`, or `source`",
                "for example model: base, data: tone.train",
            )
        return (
            methods.check(fields)
            or rounding.check(fields)
            or frozen_base.check(fields)
            or training_parts.check(fields)
            or _check_sequences(fields)
        )

    def nodes(self, target: Target, targets: Mapping[str, Target]) -> list[Node]:
        """Return the target's node.

        Raises RecipeError for a data set whose rows can't become the sequences that are wanted, and
        for a base that is shared and has nobody to be shared by.
        """
        fields = target.fields
        assert isinstance(fields, AdapterFields)
        frozen_base.check_resources(fields, target.resources)
        for ref in (fields.data, fields.eval.data if fields.eval else None):
            data = targets[ref.target].fields if ref and ref.target in targets else None
            if ref and isinstance(data, DatasetFields):
                _check_rows(fields.cut, ref.target, data)
        return super().nodes(target, targets)


def _check_import(fields: AdapterFields, source: Source) -> Problem | None:
    if not source.may_be("adapter"):
        return Problem(
            "an adapter comes from a folder, hf:ID, or an az:, s3: or gs: URL", "name one"
        )
    extra = sorted(fields.model_fields_set - {*OF_IMPORTS})
    if extra:
        return Problem(
            f"`source` brings a finished adapter, so {', '.join(extra)} has no meaning",
            "leave it out",
        )
    return None


def _check_sequences(fields: AdapterFields) -> Problem | None:
    """Return what is wrong with sequences, training and eval together."""
    cut, training = fields.cut, fields.training
    if problem := cut.problem():
        return problem
    if fields.eval and not fields.eval.data and cut.holdout is None:
        return Problem(
            "`eval` needs rows to judge by",
            "name them in `data`, or hold sequences out: sequences: {form: blocks, holdout: 0.1}",
        )
    if problem := JUDGED_BY.problem(fields):
        return problem
    if training.order == "append" and (cut.form in RANDOM or cut.holdout is not None):
        what = f"form: {cut.form}" if cut.form in RANDOM else "holdout"
        return Problem(
            f"order: append keeps the order of the data, and sequences with {what} have another",
            "leave `order` out",
        )
    return _check_lengths(cut, training)


def _check_lengths(cut: Sequences, training: Training) -> Problem | None:
    """Return what is wrong with the lengths of sequences, and with what is learnt of them."""
    written = training.model_fields_set
    if "loss" in written and cut.form not in APART and training.loss != "all":
        return Problem(
            f"sequences of the form {cut.form} learn everything, and loss: {training.loss} does "
            "not",
            "leave `loss` out, or write sequences: rows",
        )
    if cut.form == "pairs" and training.loss == "turns":
        return Problem(
            "sequences of the form pairs have no turns", "write loss: completion, or loss: all"
        )
    if cut.form == "pairs" and "max_length" in written:
        return Problem(
            "sequences of the form pairs are as long as `prompt_length` and `completion_length`",
            "leave `max_length` out",
        )
    for name in ("stride", "min_length"):
        value = getattr(cut, name)
        if value is not None and value > training.max_length:
            return Problem(
                f"sequences.{name} {value} is more than the {training.max_length} tokens of a "
                "sequence",
                "make it smaller, or training.max_length larger",
            )
    return None


def _check_rows(cut: Sequences, name: str, data: DatasetFields) -> None:
    """Raise RecipeError where rows of a data set can't become such sequences."""
    rendered = data.user is not None or data.messages is not None
    if cut.form == "pairs" and data.prompt is None:
        raise RecipeError(
            f"sequences of the form pairs need rows with a prompt, and {name} has none",
            hint=f"write `prompt` and `completion` on {name}, or another form",
        )
    if cut.special_tokens == "spaced" and rendered:
        raise RecipeError(
            f"the chat template writes the special tokens of {name}'s rows, and special_tokens: "
            "spaced would write others",
            hint="write special_tokens: none, or rows with `text`",
        )


STEP = Adapter()
