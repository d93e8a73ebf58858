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
from olivebuild.steps.parts.rounding import Aware
from olivebuild.steps.parts.sequences import (
    APART,
    DEFAULT_LENGTH,
    RANDOM,
    Form,
    Positive,
    Sequences,
)

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Training(Fields):
    """Settings of the adapter's training.

    `batch` counts examples an optimiser step; `warmup` counts steps.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-4
    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None
    warmup: Annotated[int, Field(ge=0)] = 0
    warmup_ratio: Fraction | None = None
    """Share of the steps until the rate is reached, rounded up, instead of `warmup`."""
    scheduler: Literal["linear", "cosine", "constant", "stable"] | None = None
    """`linear`, unless the order is `append`: then `stable`, which decays over the last `decay` of
    the steps alone.
    """
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    order: Literal["shuffled", "append"] = "shuffled"
    """`append`: rows in the order of the data.

    When rows are added at its end, training goes on from where the old ones ended.
    """
    batch: Positive = 8
    max_length: Positive = DEFAULT_LENGTH
    loss: Literal["completion", "turns", "all"] = "completion"
    """What is learnt: the completion (of `text` all), each of the assistant's turns in `messages`,
    or prompts as well.
    """
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta2: Fraction = 0.999
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: int = 0
    data_seed: int | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    base: Literal["fp8"] | None = None
    """`fp8`: frozen weights of linear layers, and what is multiplied with them, are rounded to FP8,
    on GPUs from compute capability 8.9 on. A merge goes into the base's own weights.
    """
    offload: Literal["cpu"] | None = None
    """`cpu`: frozen weights of decoder layers stay in the processor's memory, and are on the GPU a
    layer ahead of use. Changes no result.
    """
    shard: Literal["base"] | None = None
    """`base`: each of several GPUs (`resources: {gpu: 2}`) keeps a part of each decoder layer's
    frozen weights, and they are gathered a layer ahead of use. Changes no result.
    """
    speed: Literal["auto", "plain"] = "auto"
    """`plain`: no compiled layers, fused optimiser or shared beginnings; equal but for rounding."""
    checkpoint_steps: Positive | None = None
    """The state is kept every minute, and every so many steps, too. Changes no result."""
    sample_answers: Annotated[int, Field(ge=0, le=8)] = 2
    """Rows whose answers are shown while training, as the model would write them then; 0 for none.
    They are asked as seldom as keeps them to about 2 % of the time. Changes no result.
    """

    @property
    def pages_base(self) -> bool:
        """Return whether frozen weights are on the device only while they are used."""
        return bool(self.offload or self.shard)

    def resolved(self) -> Training:
        """Return a copy in which the defaults that depend on other fields are filled in."""
        defaults: dict[str, object] = {
            "scheduler": self.scheduler or ("stable" if self.order == "append" else "linear"),
            "data_seed": self.seed if self.data_seed is None else self.data_seed,
        }
        if self.steps is None and self.epochs is None:
            defaults["epochs"] = 1.0 if self.order == "append" else DEFAULT_EPOCHS
        return self.model_copy(update=defaults)


class Eval(Fields):
    """Held-out rows judged while training, `every` so many steps.

    `patience`: judgements without a lower loss until training ends.
    """

    data: Ref | None = None
    every: Positive = 50
    patience: Positive | None = None
    keep: Literal["best", "last"] = "best"


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


EPOCHS_OR_STEPS = only_one(
    "training.epochs",
    "training.steps",
    fact="training takes `epochs` or `steps`, not both",
    hint="leave one out",
)
WARMUP = only_one(
    "training.warmup",
    "training.warmup_ratio",
    fact="training takes `warmup` or `warmup_ratio`, not both",
    hint="leave one out",
)
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


NO_RESULT = ("checkpoint_steps", "sample_answers", "offload", "shard")
"""Fields of a training that change nothing of its result."""


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
    alternatives = (TRAINED_OR_NOT, EPOCHS_OR_STEPS, WARMUP, JUDGED_BY)
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
        training = fields.training.resolved().model_dump(mode="json", exclude=set(NO_RESULT))
        if training["dtype"] == "auto":
            # What was chosen for the machine at hand is provenance.
            training.pop("dtype")
        if training["scheduler"] != "stable":
            training.pop("decay")
        if training["order"] == "append":
            training.pop("data_seed")
        for name in ("warmup_ratio", "base"):
            if training[name] is None:
                training.pop(name)
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
            or _check_training(fields)
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


def _check_training(fields: AdapterFields) -> Problem | None:
    training = fields.training
    if problem := EPOCHS_OR_STEPS.problem(fields):
        return problem
    if training.order == "append" and training.scheduler not in (None, "stable"):
        return Problem(
            "order: append goes on from earlier steps, whose rate must not depend on how many come",
            "leave `scheduler` out",
        )
    if problem := WARMUP.problem(fields):
        return problem
    if training.warmup_ratio is not None and training.order == "append":
        return Problem(
            "order: append goes on from earlier steps, and `warmup_ratio` depends on how many come",
            "write `warmup`, a number of steps",
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


DEFAULT_EPOCHS = 3.0


STEP = Adapter()
