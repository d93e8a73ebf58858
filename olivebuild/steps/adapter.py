"""A LoRA adapter, trained on the completions of a data set or brought from elsewhere."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from olivebuild.errors import Problem
from olivebuild.job import Job
from olivebuild.small_files import read_bytes, read_json
from olivebuild.sources import Source
from olivebuild.step import Edge, Fields, FileInput, Ref, Result, Step

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Training(Fields):
    """How the adapter is trained.

    `batch` counts examples an optimiser step; `warmup` counts steps.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-4
    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None
    warmup: Annotated[int, Field(ge=0)] = 0
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
    max_length: Positive = 1024
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
    speed: Literal["auto", "plain"] = "auto"
    """`plain`: no compiled layers, fused optimiser or shared beginnings; equal but for rounding."""
    checkpoint_steps: Positive | None = None
    """The state is kept every minute, and every so many steps, too. Changes no result."""

    def resolved(self) -> Training:
        """With the defaults that depend on other fields filled in."""
        given: dict[str, object] = {
            "scheduler": self.scheduler or ("stable" if self.order == "append" else "linear")
        }
        if self.steps is None and self.epochs is None:
            given["epochs"] = 1.0 if self.order == "append" else DEFAULT_EPOCHS
        given["data_seed"] = self.seed if self.data_seed is None else self.data_seed
        return self.model_copy(update=given)


class Eval(Fields):
    """Held-out rows judged while training, `every` so many steps.

    `patience`: judgements without a lower loss until training ends.
    """

    data: Ref
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
    method: Literal["lora", "qlora"] = "lora"
    quantisation: Quantisation = Quantisation()
    """Of the base's weights while training with `method: qlora`."""
    r: Positive = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Fraction = 0.0
    rslora: bool = False
    """Scaled by alpha / sqrt(r) instead of alpha / r."""
    dora: bool = False
    """Direction and magnitude of each weight are trained apart."""
    modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    training: Training = Training()
    from_: Ref | None = Field(default=None, alias="from")
    """Another adapter, of the same shape, whose weights training begins with."""
    eval: Eval | None = None
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """End tokens, as text, beside those that were trained (of one from elsewhere: instead of the
    chat template's).
    """

    @field_validator("modules")
    @classmethod
    def _sorted(cls, value: list[str] | str) -> list[str] | str:
        # Order has no meaning here, so it must not change the key.
        return sorted(set(value)) if isinstance(value, list) else value


class Adapter(Step):
    kind = "adapter"
    version = 6
    changes: ClassVar = {
        6: "conversations are tokens as the chat template writes them, end of turn included; the "
        "ends travel with the adapter, and an adapter "
        "from elsewhere keeps the tokenizer that lies beside it; "
        "each row is trained on as the model computes it alone, also beyond a window or an "
        "original context"
    }
    fields = AdapterFields
    summary = "a LoRA adapter trained on `model` with `data`, or an adapter folder (`source`)"

    def libraries(self, fields: AdapterFields) -> tuple[str, ...]:
        if fields.source:
            return ("safetensors",)
        libraries = ("torch", "transformers", "tokenizers", "peft", "safetensors")
        return libraries if fields.method == "lora" else (*libraries, "bitsandbytes")

    def takes_gpu(self, fields: AdapterFields) -> bool:
        return fields.source is None

    def computes(self, fields: AdapterFields) -> bool:
        return fields.source is None

    def template(self, fields: AdapterFields) -> str:
        return "" if fields.source else "rendered"

    def shares_process(self, fields: AdapterFields) -> bool:
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
        return (
            [*edges, Edge("eval", fields.eval.data, ("dataset",), "test", ("eval", "data"))]
            if fields.eval
            else edges
        )

    def files(self, fields: AdapterFields) -> list[FileInput]:
        source = fields.source
        return (
            [FileInput("source", source.name, ("source",))]
            if source and source.scheme == "file"
            else []
        )

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, AdapterFields)
        # A choice that was not made is left out: it changes nothing for adapters from before there
        # was one.
        stop: dict[str, object] = {"stop": sorted(set(fields.stop))} if fields.stop else {}
        if fields.source:
            return stop
        given = {**super().parameters(fields), **stop}
        if not stop:
            given.pop("stop")
        # An adapter to begin with is an input; its name says nothing.
        given.pop("from_")
        given.pop("trust")
        if fields.method == "lora":
            given.pop("quantisation")
        if fields.eval:
            given["eval"] = fields.eval.model_dump(mode="json", exclude={"data"})
        training = fields.training.resolved().model_dump(mode="json", exclude={"checkpoint_steps"})
        if training["dtype"] == "auto":
            # What was chosen for the machine at hand is provenance.
            training.pop("dtype")
        if training["scheduler"] != "stable":
            training.pop("decay")
        if training["order"] == "append":
            training.pop("data_seed")
        return given | {"training": training}

    def check(self, fields: AdapterFields) -> Problem | None:
        if fields.source:
            extra = sorted(fields.model_fields_set - {"source", "model", "stop", "trust"})
            if fields.source.scheme in ("gguf", "pypi"):
                return Problem("an adapter comes from a folder or hf:ID", "name one")
            if extra:
                return Problem(
                    f"`source` brings a finished adapter, so {', '.join(extra)} has no meaning",
                    "leave it out",
                )
            return None
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
        if fields.method == "lora" and "quantisation" in fields.model_fields_set:
            return Problem(
                "`quantisation` belongs to method: qlora", "leave it out, or write method: qlora"
            )
        if fields.training.epochs is not None and fields.training.steps is not None:
            return Problem("training takes `epochs` or `steps`, not both", "leave one out")
        if fields.training.order == "append" and fields.training.scheduler not in (None, "stable"):
            return Problem(
                "order: append goes on from earlier steps, whose rate must not depend on how many "
                "come",
                "leave `scheduler` out",
            )
        return None

    def run(self, job: Job) -> None:
        fields = job.fields(AdapterFields)
        if fields.source:
            _bring(job, fields.source, fields.stop, trust=fields.trust)
        else:
            from olivebuild.steps import _train

            job.result = _train.train(job, fields)


DEFAULT_EPOCHS = 3.0


def _bring(job: Job, source: Source, stop: list[str], *, trust: bool) -> None:
    """Store an adapter folder's two files, checked, and the tokenizer that it was trained with, if
    it brings one: peft's or Unsloth's.

    Ends are texts until its base's tokenizer is there.
    """
    import json

    from msgspec import structs

    from olivebuild import brought
    from olivebuild.errors import InputError
    from olivebuild.manifest import Entry, Manifest
    from olivebuild.steps import _ends
    from olivebuild.steps._adapters import why_unusable
    from olivebuild.steps._fetch import fetch
    from olivebuild.steps._tokenizer_files import found_in
    from olivebuild.tensors import tensors_of

    folder = fetch(
        job,
        source,
        look=lambda folder: brought.check(folder, "adapter", job.where("source"), trust=trust),
    )
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for file in (config, weights):
        if not file.is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            hint = (
                "save it again with safe_serialization=True: unpickling runs code"
                if pickled
                else "is it an adapter folder as peft saves it?"
            )
            raise InputError(f"{file.name} is missing", where=str(folder), hint=hint)
    try:
        data: dict[str, Any] = read_json(config)
        refusal = why_unusable({"peft_type": data["peft_type"], **data})
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise InputError(
            f"not an adapter configuration: {e}",
            where=str(config),
            hint="is it an adapter folder as peft saves it?",
        ) from None
    if refusal:
        raise InputError(refusal[0], where=job.where("source") or str(config), hint=refusal[1])
    tensors = len(tensors_of(weights))
    text = (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()
    # A file of this machine is copied again in less time than syncing takes, if a power cut takes
    # the copy.
    stored = job.store.put_file(
        weights.resolve(), weights.name, job.out.parent, sync=source.scheme != "file"
    )
    entries = [
        Entry.of_runs(config.name, [(job.store.put_bytes(text), len(text))]),
        structs.replace(stored, executable=False),
    ]
    said = _ends.read(folder / _ends.NAME)
    trained = _ends.ids_of(said.get("eos_token_id")), _ends.texts_of(said.get("stop_strings"))
    if stop or any(trained):
        # `stop` has the word, else the ends that lie beside the adapter: those it was trained with.
        ends = (
            _ends.of_adapter([], sorted(set(stop))) if stop else _ends.of_adapter(*trained)
        ).encode()
        entries.append(Entry.of_runs(_ends.NAME, [(job.store.put_bytes(ends), len(ends))]))
    for name, path in found_in(folder):
        content = read_bytes(path)
        entries.append(Entry.of_runs(name, [(job.store.put_bytes(content), len(content))]))
    job.result = Result(
        metrics={"tensors": tensors}, manifest=job.store.put_manifest(Manifest(tuple(entries)))
    )


STEP = Adapter()
