"""Faults of recipes, each told at its line with what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import Where
from olivebuild.recipe.file import FILE_NAME
from tests.recipe.test_file import ONE, SCHEMA, fault

TOP_FAULTS = [
    ("", 1, 1, "", "a recipe is a mapping with `targets:`", "`olivebuild init` writes one"),
    ("- a", 1, 1, "- a", "a recipe is a mapping with `targets:`", "`olivebuild init` writes one"),
    ("tragets: {}", 1, 1, "tragets: {}", "unknown key 'tragets'", "did you mean targets?"),
    (
        "version: 1\nfoo: 2",
        2,
        1,
        "foo: 2",
        "unknown key 'foo'",
        "known are: version, default, cache, resources, numerics, executors, targets",
    ),
    (
        "version: 2\n" + ONE,
        1,
        1,
        "version: 2",
        "version 2 is not known to this olivebuild",
        "write version: 1",
    ),
    (
        "version: true\n" + ONE,
        1,
        1,
        "version: true",
        "version True is not known to this olivebuild",
        "write version: 1",
    ),
    (
        "version: '1'\n" + ONE,
        1,
        1,
        "version: '1'",
        "version '1' is not known to this olivebuild",
        "write version: 1",
    ),
    (
        "version: 1\ntargets: {}",
        2,
        1,
        "targets: {}",
        "`targets:` must name at least one target",
        "`olivebuild init` writes a recipe to begin with",
    ),
    (
        "targets: [a]",
        1,
        1,
        "targets: [a]",
        "`targets:` must name at least one target",
        "`olivebuild init` writes a recipe to begin with",
    ),
    (
        "targets:\n",
        1,
        1,
        "targets:",
        "`targets:` must name at least one target",
        "`olivebuild init` writes a recipe to begin with",
    ),
    (ONE + "default: aa\n", 3, 1, "default: aa", "unknown target 'aa'", "did you mean a?"),
    (ONE + "default: [a, 1]\n", 3, 1, "default: [a, 1]", "unknown target '1'", "known are: a"),
    (
        ONE + "cache: {remot: x}\n",
        3,
        9,
        "cache: {remot: x}",
        "unknown key 'remot' in cache",
        "did you mean remote?",
    ),
    (
        ONE + "cache: {max_size: 5}\n",
        3,
        9,
        "cache: {max_size: 5}",
        "cache.max_size: input should be a valid string",
        SCHEMA,
    ),
]


@pytest.mark.parametrize(("text", "line", "column", "shown", "fact", "hint"), TOP_FAULTS)
def test_faults_outside_of_targets(
    tmp_path: Path, text: str, line: int, column: int, shown: str, fact: str, hint: str
) -> None:
    error = fault(tmp_path, text)
    assert (error.where, error.fact, error.hint) == (
        Where(FILE_NAME, line, column, shown),
        fact,
        hint,
    )


@pytest.mark.parametrize("text", ["default: [[a]]\n", "default: {a: 1}\n", "default: [{a: 1}]\n"])
def test_a_default_of_another_shape_is_a_fault_of_the_recipe(tmp_path: Path, text: str) -> None:
    error = fault(tmp_path, text + ONE)
    assert str(error.where) == f"{FILE_NAME}:1:1"


TARGET_FAULTS = [
    (
        "  B: {kind: command}",
        3,
        "'B' is not a name for a target",
        "names begin with a letter or digit and hold a-z, 0-9, _ and -",
    ),
    (
        "  -b: {kind: command}",
        3,
        "'-b' is not a name for a target",
        "names begin with a letter or digit and hold a-z, 0-9, _ and -",
    ),
    (
        '  "b\\n": {kind: command}',
        3,
        "'b\\n' is not a name for a target",
        "names begin with a letter or digit and hold a-z, 0-9, _ and -",
    ),
    (
        "  build: {kind: command}",
        3,
        "build is the name of a command",
        "call the target something else",
    ),
    (
        "  b: 1",
        3,
        "b must be a mapping with a `kind:`",
        "b: {kind: ...}, one of model, dataset, adapter, merged, onnx, onnx-adapter, benchmark, "
        "choice, command",
    ),
    (
        "  b: {run: x}",
        3,
        "b has no kind",
        "kind: one of model, dataset, adapter, merged, onnx, onnx-adapter, benchmark, choice, "
        "command",
    ),
    ("  b: {kind: comand}", 7, "unknown kind 'comand'", "did you mean command?"),
    (
        "  b: {kind: [1]}",
        7,
        "unknown kind '[1]'",
        "known are: model, dataset, adapter, merged, onnx, onnx-adapter, benchmark, choice, "
        "command",
    ),
    (
        "  b: {kind: command, run: x, outputs: [y], shel: true}",
        44,
        "unknown key 'shel' in b",
        "did you mean shell?",
    ),
    (
        "  b: {kind: command, rnu: x, outputs: [y]}",
        22,
        "unknown key 'rnu' in b",
        "did you mean run?",
    ),
    ("  b: {kind: command, outputs: [y]}", 3, "b has no run", "add `run:`"),
    (
        "  b: {kind: command, run: 1, outputs: [y]}",
        22,
        "b.run: input should be a valid string",
        SCHEMA,
    ),
    (
        "  b: {kind: command, run: '', outputs: [y]}",
        22,
        "b.run: string should have at least 1 character",
        SCHEMA,
    ),
    (
        "  b: {kind: command, run: x, outputs: [../y]}",
        3,
        "b: the output '../y' leaves the target's folder",
        "outputs are relative paths without ..",
    ),
    (
        "  b: {kind: command, run: x, outputs: [/y]}",
        3,
        "b: the output '/y' leaves the target's folder",
        "outputs are relative paths without ..",
    ),
    (
        "  b: {kind: command, run: 'x {outputs.z}', outputs: [y]}",
        3,
        "b: `run` names {outputs.z}, which is not declared",
        "declared are y",
    ),
    (
        "  b: {kind: command, run: 'x {inputs.z}', outputs: [y]}",
        3,
        "b: `run` names {inputs.z}, which is not declared",
        "declared are none",
    ),
    (
        "  b: {kind: dataset, source: x, text: t, holdout: 2}",
        42,
        "b.holdout: input should be less than or equal to 1",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: x, text: t, holdout: .nan}",
        42,
        "b.holdout: input should be a finite number",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: x, text: t, seed: '1'}",
        42,
        "b.seed: input should be a valid integer",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: x, text: t, dedupe: 1}",
        42,
        "b.dedupe: input should be a valid boolean",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: 'ftp:x', text: t}",
        22,
        "b.source: unknown source scheme 'ftp': known are a path, gguf, hf, pypi, az, s3, gs, "
        "azureml, https",
        SCHEMA,
    ),
    (
        "  b: {kind: merged, model: B, adapter: a}",
        21,
        "b.model: 'B' is not the name of a target or of a target's output",
        SCHEMA,
    ),
    (
        "  b: {kind: dataset, source: x, prompt: p, text: t}",
        3,
        "b: its rows need exactly one of prompt and completion, user and assistant, messages, or "
        "text, not prompt, text",
        "see `olivebuild schema`",
    ),
    (
        "  b: {kind: dataset, source: x, text: t, test: y, holdout: 0.1}",
        3,
        "b: `test` and `holdout` don't go together",
        "the test rows come from one or the other",
    ),
]


@pytest.mark.parametrize(("line", "column", "fact", "hint"), TARGET_FAULTS)
def test_faults_of_a_target(tmp_path: Path, line: str, column: int, fact: str, hint: str) -> None:
    error = fault(tmp_path, ONE + line + "\n")
    assert (error.where, error.fact, error.hint) == (Where(FILE_NAME, 3, column, line), fact, hint)
