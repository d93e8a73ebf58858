"""Settings of an adapter's training, and of what is judged meanwhile."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from olivebuild.api.fields import only_one
from olivebuild.api.step import Fields, Ref
from olivebuild.core.errors import Problem
from olivebuild.steps.parts.sequences import DEFAULT_LENGTH, Positive

DEFAULT_EPOCHS = 3.0
Fraction = Annotated[float, Field(ge=0, lt=1)]
NO_RESULT = ("checkpoint_steps", "sample_answers", "offload", "shard")
"""Fields of a training that change nothing of its result."""


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
    on GPUs from compute capability 8.9 on. Weights have two roundings, which take turns. A merge
    goes into the base's own weights.
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

    def parameters(self) -> dict[str, object]:
        """Return what goes into the key. A choice that was not made is left out."""
        parameters: dict[str, object] = self.resolved().model_dump(
            mode="json", exclude=set(NO_RESULT)
        )
        if parameters["dtype"] == "auto":
            # What was chosen for the machine at hand is provenance.
            parameters.pop("dtype")
        if parameters["scheduler"] != "stable":
            parameters.pop("decay")
        if parameters["order"] == "append":
            parameters.pop("data_seed")
        for name in ("warmup_ratio", "base"):
            if parameters[name] is None:
                parameters.pop(name)
        if "base" in parameters:
            # Its weights had one rounding once.
            parameters["roundings"] = 2
        return parameters


class Eval(Fields):
    """Held-out rows judged while training, `every` so many steps.

    `patience`: judgements without a lower loss until training ends.
    """

    data: Ref | None = None
    every: Positive = 50
    patience: Positive | None = None
    keep: Literal["best", "last"] = "best"


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
ALTERNATIVES = (EPOCHS_OR_STEPS, WARMUP)


def check(fields: Any) -> Problem | None:
    """Return what is wrong with the training of an adapter; `fields` are those of the kind."""
    training: Training = fields.training
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
