"""Classical text classifiers, trained and judged on the same rows."""

from __future__ import annotations

import json
from typing import Any

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.metrics.scoring import without_answers


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    from olivebuild.ml.data.examples import Table, read_table

    train = read_table(job.input("train").path)
    tests = [read_table(job.input(role).path) for role in job.roles("data")]

    def texts(table: Table) -> list[str]:
        # The template is the same in every row, so it tells nothing.
        return [
            row.get("prompt") or row.get("user") or row.get("messages") or row.get("text") or ""
            for row in table.rows
        ]

    classifiers: dict[str, Any] = {
        "naive bayes": make_pipeline(CountVectorizer(), MultinomialNB()),
        "tf-idf + logistic regression": make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000, C=10)
        ),
    }
    labels = [row["label"] for row in train.rows]
    result: dict[str, Any] = {}
    for name, classifier in classifiers.items():
        result[name] = [{"rows": len(t.rows)} for t in tests]
        if len(set(labels)) < 2:
            continue
        classifier.fit(texts(train), labels)
        for metrics, table in zip(result[name], tests, strict=True):
            if table.rows:
                metrics |= _judged(classifier, texts(table), [row["label"] for row in table.rows])
    (job.out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    job.result = Result(
        metrics={name: list(map(without_answers, rows)) for name, rows in result.items()}
    )


def _judged(classifier: Any, texts: list[str], expected: list[str]) -> dict[str, Any]:
    """Return a classifier's accuracy and answers, which are compared with models' row by row."""
    answered = [str(label) for label in classifier.predict(texts)]
    right = sum(a == b for a, b in zip(answered, expected, strict=True))
    return {
        "accuracy": round(right / len(expected), 6),
        "answers": [{"expected": e, "label": a} for e, a in zip(expected, answered, strict=True)],
    }
