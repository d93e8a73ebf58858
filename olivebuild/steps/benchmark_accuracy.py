"""How often a model is right on the test rows: by the likelihood of each label, and by what it writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from olivebuild.step import Fields, Result, Step
from olivebuild.worker import Job

if TYPE_CHECKING:
    from olivebuild.steps._runtime import Answer


class AccuracyFields(Fields):
    max_new_tokens: int


class Accuracy(Step):
    kind = "benchmark-accuracy"
    fields = AccuracyFields
    gpu = True

    def libraries(self, fields: AccuracyFields) -> tuple[str, ...]:
        return ("torch", "transformers", "tokenizers", "onnxruntime-genai")

    def run(self, job: Job) -> None:
        from olivebuild.steps import _runtime
        from olivebuild.steps._tokens import read_table

        fields = job.fields(AccuracyFields)
        runtime = _runtime.open_model(job.input("model").folder, trust_remote_code=job.input("model").trust_remote_code)
        roles = job.roles("data")
        tables = [read_table(job.input(role).path) for role in roles]
        rows = sum(len(t.rows) for t in tables)
        done = 0
        result = []
        for table in tables:
            answers = []
            for answer in _runtime.judge(runtime, table, fields.max_new_tokens):
                answers.append(answer)
                done += 1
                job.progress("judging", done, rows)
            result.append(_figures(table.labels, answers))
        (job.out / "metrics.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
        job.result = Result(metrics={"data": [{k: v for k, v in r.items() if k != "answers"} for r in result]})


def _figures(labels: list[tuple[str, str]], answers: list[Answer]) -> dict[str, object]:
    count = len(answers)
    figures: dict[str, object] = {"rows": count}
    if count:
        figures["generated_accuracy"] = round(sum(a.text_right for a in answers) / count, 6)
        if labels:
            figures["accuracy"] = round(sum(a.label == a.expected for a in answers) / count, 6)
    return figures | {"answers": [{"expected": a.expected, "label": a.label, "text": a.text} for a in answers]}


STEP = Accuracy()
