"""What the parts of a benchmark declare: files, parameters and libraries."""

from __future__ import annotations

from olivebuild.steps.measurements import accuracy, check
from olivebuild.steps.measurements.accuracy import AccuracyFields
from olivebuild.steps.measurements.check import CheckFields


def test_what_judges_answers_is_part_of_their_key() -> None:
    step = accuracy.STEP
    plain = AccuracyFields(max_new_tokens=8)
    assert step.files(plain) == []
    assert "peft" not in step.libraries(plain)
    judged = AccuracyFields(
        max_new_tokens=8, json_schema="s.json", score=["eval/a.py:f", "b.py:g"], adapter=True
    )
    files = [(file.label, file.pattern) for file in step.files(judged)]
    assert files == [
        ("json_schema", "s.json"),
        ("score.0", "eval/a.py"),
        ("score.1", "b.py"),
    ]
    assert step.parameters(judged) == {"max_new_tokens": 8, "score": ["f", "g"]}
    assert {"jsonschema", "peft"} <= set(step.libraries(judged))


def test_a_check_names_what_it_compares() -> None:
    step = check.STEP
    merge, onnx = CheckFields(what="merge"), CheckFields(what="onnx", precision="int4")
    assert step.parameters(merge) == {"what": "merge"}
    assert step.parameters(onnx) == {"what": "onnx", "precision": "int4"}
    assert "peft" in step.libraries(merge)
    assert "onnxruntime-genai" in step.libraries(onnx)
