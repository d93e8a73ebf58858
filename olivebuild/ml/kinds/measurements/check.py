"""Comparison of a converted model with what it was made from: logits, tokens, end tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.errors import InputError, StepError, first_line
from olivebuild.formats import template_clock
from olivebuild.steps.measurements.check import SAMPLE, CheckFields

if TYPE_CHECKING:
    from olivebuild.ml.onnx.trial import Difference

CONVERSATIONS = ("messages", "user")
"""Formats of rows that the chat template renders."""


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.ml.data.examples import read_table
    from olivebuild.ml.models import genai
    from olivebuild.ml.models.opened import check_inputs

    check_inputs(job)
    genai.use_threads(job.action.threads)
    tables = [read_table(job.input(role).path) for role in job.roles("data")]
    metrics = _merge(job, tables) if job.fields(CheckFields).what == "merge" else _onnx(job, tables)
    # The process may go on to another step.
    genai.use_threads(0)
    (job.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
    job.result = Result(metrics=metrics)


def _sample(tables: list[Any], tokenizer: Any) -> list[list[int]]:
    """Token ids of a few test rows, prompt and completion."""
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.inference.context import examples_of

    encoder = Encoder(tokenizer)
    rows = [
        example
        for t in tables
        for example in examples_of(encoder, replace(t, rows=t.rows[:SAMPLE]))
    ][:SAMPLE]
    return [r.prompt + r.completion for r in rows]


def _merge(job: Job, tables: list[Any]) -> dict[str, object]:
    """Compare the merged model with base + adapter.

    Raises StepError when it is further from them than rounding explains.
    """
    import torch
    from peft import PeftModel

    from olivebuild.ml.models import load
    from olivebuild.ml.weights import patterns
    from olivebuild.ml.weights.inputs import as_folder

    base, merged, adapter = job.input("base"), job.input("model"), as_folder(job, "adapter")
    device, dtype = load.platform()
    rows = _sample(
        tables,
        load.load_tokenizer(
            base.folder, trust_remote_code=base.trust_remote_code, date=job.action.template_date
        ),
    )

    def logits(model: Any) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [
                model(input_ids=torch.tensor([ids], device=device)).logits[0].float().cpu()
                for ids in rows
            ]

    job.progress("comparing logits", 0, 3)
    model = load.load_model(
        base.folder, dtype, device, trust_remote_code=base.trust_remote_code, where=job.where()
    )
    plain = logits(model)
    job.progress("comparing logits", 1, 3)
    patterns.check_adapter(Path(adapter), model, trust=job.input("adapter").trust_remote_code)
    adapted = logits(PeftModel.from_pretrained(model, str(adapter)).eval())
    job.progress("comparing logits", 2, 3)
    del model
    ours = logits(
        load.load_model(merged.folder, dtype, device, trust_remote_code=merged.trust_remote_code)
    )
    job.progress("comparing logits", 3, 3)
    metrics = compare([x.numpy() for x in adapted], [x.numpy() for x in ours])
    effect = compare([x.numpy() for x in adapted], [x.numpy() for x in plain])
    if metrics["rms"] > 0.1 and metrics["rms"] > 0.5 * effect["rms"]:
        raise StepError(
            f"{merged.target} does not do what its adapter does: logits differ by "
            f"{metrics['rms']:.3g} of their spread",
            where=job.where(),
            hint="was the adapter trained on this base model? please report it if it was",
        )
    return {**metrics, "rows": len(rows), "adapter_effect": effect["rms"]}


def compare(expected: list[Any], actual: list[Any]) -> dict[str, float]:
    """Return how far logits are from the expected ones; arrays [tokens, vocabulary].

    The greatest difference, its root mean square in units of the expected logits' spread, and the
    share of tokens for which both find the same most likely.
    """
    import numpy as np

    if not expected:
        return {"max": 0.0, "rms": 0.0, "top1_agreement": 1.0}
    a, b = np.concatenate(expected), np.concatenate(actual)
    centred = a - a.mean(-1, keepdims=True)
    difference = (b - b.mean(-1, keepdims=True)) - centred
    spread = float(np.sqrt(np.square(centred).mean())) or 1.0
    return {
        "max": float(np.abs(difference).max()),
        "rms": float(np.sqrt(np.square(difference).mean())) / spread,
        "top1_agreement": float((a.argmax(-1) == b.argmax(-1)).mean()),
    }


def _onnx(job: Job, tables: list[Any]) -> dict[str, object]:
    """Compare an ONNX model with its source.

    Raises InputError when the two tokenizers differ on a prompt, or a stop token is missing;
    StepError when logits are too far off.
    """
    import numpy as np
    import onnxruntime_genai as og

    from olivebuild.ml.inference.onnx_runtime import OnnxRuntime
    from olivebuild.ml.models import load
    from olivebuild.ml.onnx.trial import compare as difference_of

    source, onnx = job.input("source"), job.input("model")
    tokenizer = load.load_tokenizer(
        source.folder, trust_remote_code=source.trust_remote_code, date=job.action.template_date
    )
    runtime = OnnxRuntime(onnx.folder, job.action.template_date, trust=onnx.trust_remote_code)
    # Its own template, with the date in it: the runtime would read the clock.
    dated = runtime.tokenizer if template_clock.folder_reads_clock(Path(onnx.folder)) else None
    prompts = _same_tokens(job, tables, tokenizer, og.Tokenizer(runtime.model), dated)
    _same_ends(job, Path(source.folder), Path(onnx.folder))
    context = int(runtime.config["model"]["context_length"])
    rows = [ids[: context - 1] for ids in _sample(tables, tokenizer)]
    precision = job.fields(CheckFields).precision
    # What is judged to the fourth digit is compared with logits that have it.
    device, dtype = load.platform(*(["float32"] if precision == "fp32" else []))
    model = load.load_model(
        source.folder, dtype, device, trust_remote_code=source.trust_remote_code, where=job.where()
    )
    expected, actual = _logits(job, model, device, runtime, rows)
    metrics = compare(expected, actual)
    if precision and rows:
        _judge(
            job,
            onnx.target,
            precision,
            difference_of([*np.concatenate(expected)], [*np.concatenate(actual)]),
            metrics,
        )
    return {**metrics, "rows": len(rows), "prompts": prompts}


def _logits(
    job: Job, model: Any, device: Any, runtime: Any, rows: list[list[int]]
) -> tuple[list[Any], list[Any]]:
    """Return the logits [tokens, vocabulary] of each row, by the source and by the runtime."""
    import numpy as np
    import onnxruntime_genai as og
    import torch

    from olivebuild.ml.onnx.trial import capacity

    expected, actual = [], []
    for i, ids in enumerate(rows):
        job.progress("comparing logits", i, len(rows))
        with torch.inference_mode():
            tokens = torch.tensor([ids], device=device)
            expected.append(model(input_ids=tokens).logits[0].float().cpu().numpy())
        params = og.GeneratorParams(runtime.model)
        params.set_search_options(
            max_length=capacity(runtime.config, len(ids) + 1), do_sample=False
        )
        generator = og.Generator(runtime.model, params)
        generator.append_tokens(np.array(ids, dtype=np.int32))
        got = np.asarray(generator.get_output("logits"), dtype=np.float32)[0]
        # Some graphs give the last token's logits only.
        expected[-1] = expected[-1][-len(got) :]
        actual.append(got[:, : expected[-1].shape[1]])
    job.progress("comparing logits", len(rows), len(rows))
    return expected, actual


def _judge(
    job: Job, target: str, precision: str, difference: Difference, metrics: dict[str, float]
) -> None:
    """Judge how far a conversion is from its source.

    Raises StepError where it is further than its precision explains.
    """
    from olivebuild.ml.onnx.trial import LIMITS

    limit = LIMITS[precision]
    fault = difference.beyond(limit)
    if not fault and precision == "fp32" and difference.flips:
        fault = f"the likeliest token is another one for {difference.flips:.1%} of the tokens"
    if fault:
        raise StepError(
            f"{target} is not what its source is in {precision}: {fault}; the likeliest token is "
            f"the same for {metrics['top1_agreement']:.1%}",
            where=job.where(),
            hint="another version of onnxruntime-genai, another precision or other options "
            "may convert "
            "it right",
        )


def _same_tokens(
    job: Job, tables: list[Any], tokenizer: Any, theirs: Any, dated: Any = None
) -> int:
    """Return how many prompts were compared.

    Their text, their tokens, and, where they come from messages, what the runtime's own template
    gives.

    `dated` has their template for the date of the benchmark, where it reads the clock.
    The model is asked with the tokens of our one rendering; whoever deploys it has those of the
    runtime's tokenizer.
    """
    from olivebuild.data.origins import origins_of

    prompts = _Prompts(job, tokenizer, theirs, dated)
    origins = [origins_of(table.path) for table in tables]
    rows = [
        (table.format, row, places.of(i))
        for table, places in zip(tables, origins, strict=True)
        for i, row in enumerate(table.rows)
    ]
    for i, (form, row, origin) in enumerate(rows):
        job.progress("comparing tokens", i, len(rows))
        prompts.encoder.where = origin or job.where("data")
        prompts.check_tokens(form, row)
        if form in CONVERSATIONS:
            prompts.check_template(form, row)
    prompts.tell(any(table.format in CONVERSATIONS for table in tables))
    return len(rows)


class _Prompts:
    """Compares prompts by our encoder with those of the runtime's tokenizer, `theirs`."""

    hint = (
        "the deployed model would see other tokens than the one that was trained; another version "
        "of onnxruntime-genai may help"
    )

    def __init__(self, job: Job, tokenizer: Any, theirs: Any, dated: Any) -> None:
        from olivebuild.ml.data.tokens import Encoder

        self.encoder = Encoder(tokenizer)
        self._job = job
        self._tokenizer = tokenizer
        self._theirs = theirs
        self._dated = dated
        self._begun = 0
        """Prompts that ours begins with tokens which the runtime does not write."""

    def check_tokens(self, form: str, row: Any) -> None:
        """Raises InputError where the runtime makes other tokens of a row's prompt."""
        encoder = self.encoder
        text = encoder.prompt_text(form, row) or encoder.completion_text(form, row)
        asked = (form, row) if form != "text" else ("prompt", {"prompt": text})
        ours = encoder.ask(*asked)
        genai_ids = [int(t) for t in self._theirs.encode(text)]
        if ours == genai_ids:
            return
        if form in ("prompt", "text") and ours == [*encoder.begin, *genai_ids]:
            # The runtime tokenizes what it is given and begins nothing; that is for whoever calls
            # it to do.
            self._begun += 1
            return
        at = next(
            (k for k, (a, b) in enumerate(zip(ours, genai_ids, strict=False)) if a != b),
            min(len(ours), len(genai_ids)),
        )
        fact = (
            f"onnxruntime-genai makes other tokens of a prompt: token {at} is "
            f"{genai_ids[at : at + 3]}, not {ours[at : at + 3]}, in {text[:80]!r}"
        )
        raise InputError(fact, where=self._job.where("data"), hint=self.hint)

    def check_template(self, form: str, row: Any) -> None:
        """Raises InputError where the runtime's template writes another prompt, or ours none."""
        from olivebuild.ml.data.template_habits import Refused

        encoder = self.encoder
        messages, tools = encoder.messages(form, row)[:-1], encoder.tools(row)
        try:
            # First by the engine that has limits: the runtime's has none.
            expected = encoder.render(messages, tools, prompt=True)
        except Refused as e:
            fact = f"the chat template refuses a row: {e}"
            raise InputError(fact, where=encoder.where, hint="leave it out") from None
        template = self._dated.get_chat_template(tools=tools) if self._dated else ""
        written = _written(self._theirs, messages, tools, template)
        if written != expected:
            fact = (
                f"onnxruntime-genai writes another chat prompt: {written[:80]!r}, not "
                f"{expected[:80]!r}"
            )
            raise InputError(fact, where=self._job.where("data"), hint=self.hint)

    def tell(self, with_conversations: bool) -> None:
        """Note what programs that deploy the model have to put around prompts themselves."""
        if self._begun:
            names = " ".join(self._tokenizer.convert_ids_to_tokens(self.encoder.begin))
            self._job.note(
                f"onnxruntime-genai's tokenizer does not begin a text with {names}, as training "
                f"and benchmarks do: put it before {self._begun} prompts"
            )
        # A model without a template has no habits, and none is asked for.
        header = self.encoder.habits.header if with_conversations else ""
        if header:
            self._job.note(
                "the chat template ignores add_generation_prompt: prompts that are deployed must "
                f"end with {header!r}"
            )


def _written(
    theirs: Any, messages: list[dict[str, Any]], tools: list[Any] | None, template: str = ""
) -> str:
    """The prompt as the runtime's own template engine writes it, or what it says instead."""
    options = {"tools": json.dumps(tools, ensure_ascii=False)} if tools else {}
    if template:
        options["template_str"] = template
    try:
        return str(
            theirs.apply_chat_template(
                json.dumps(messages, ensure_ascii=False), add_generation_prompt=True, **options
            )
        )
    except RuntimeError as e:
        return first_line(e)


def _same_ends(job: Job, source: Path, onnx: Path) -> None:
    """Raise InputError unless the converted model stops where the source stops.

    The source stops by its configuration, or by what its adapter taught it.
    """
    from olivebuild.ml.data.end_tokens import ends_of

    if missing := sorted(ends_of(source) - ends_of(onnx)):
        hint = "the deployed model would not stop where the trained one does"
        raise InputError(
            f"the stop token {missing[0]} is missing from genai_config.json",
            where=job.where(),
            hint=hint,
        )
