"""What is spoilt, and by which commands it is then read."""

from __future__ import annotations

from typing import NamedTuple


class Subject(NamedTuple):
    files: tuple[tuple[str, ...], ...]
    """Groups of patterns below the sandbox; a group is drawn first, so that many files of one kind
    do not stand for all.
    """
    light: tuple[str, ...]
    """Commands that import no large library."""
    heavy: tuple[str, ...] = ()
    times: int = 2
    """How many times the usual share of cases runs these."""
    places: bool = True
    """Whether files become links, pipes and the like. pip's own folder of wheels is the user's, and
    pip waits for a pipe in it.
    """


LOOKS = (
    "status",
    "status --json",
    "verify",
    "verify --json",
    "report --markdown",
    "history --json",
    "gc",
    "graph",
    "doctor --json",
    "clean --dry-run",
)
SUBJECTS = {
    "model": Subject(
        (
            ("work/model/config.json",),
            ("work/model/generation_config.json",),
            ("work/model/tokenizer.json", "work/model/tokenizer_config.json"),
            ("work/model/chat_template.jinja",),
            ("work/model/*.safetensors",),
            ("work/model/model.safetensors.index.json",),
            ("work/model",),
        ),
        (
            "plan base merged int4 trained",
            "plan --json merged",
            "status --json",
            "why merged",
            "verify",
            "init -f new.yaml --model model --data talk.jsonl",
            "report --markdown",
            "build base",
        ),
        (
            "build merged",
            "build int4",
            "build -k talk trained",
            "predict base --in talk.jsonl --max-tokens 2",
        ),
    ),
    "adapter": Subject(
        (
            ("work/lora/adapter_config.json",),
            ("work/lora/adapter_config.json",),
            ("work/lora/adapter_model.safetensors",),
            ("work/lora",),
        ),
        ("plan brought merged", "plan --json merged", "status", "why brought", "verify --json"),
        ("build brought", "build merged", "build -k merged int4"),
    ),
    "onnx": Subject(
        (
            ("work/onnx/genai_config.json",),
            ("work/onnx/genai_config.json",),
            ("work/onnx/model.onnx",),
            ("work/onnx/model.onnx.data",),
            ("work/onnx/tokenizer*", "work/onnx/*.jinja", "work/onnx/special*"),
            ("work/onnx",),
        ),
        ("plan finished", "plan --json finished", "status --json", "why finished", "verify"),
        ("build finished", "build finished", "predict finished --in talk.jsonl --max-tokens 2"),
    ),
    "gguf": Subject(
        (("work/m.gguf",),),
        ("plan dequantised", "status", "why dequantised", "verify"),
        ("build dequantised",),
        times=8,
    ),
    "wheel": Subject(
        (("work/wheels/*.whl",),), ("plan wheel",), ("build wheel",), times=8, places=False
    ),
    "hub": Subject(
        (
            ("hub/hub/*/refs/main", "hub/hub/*/refs"),
            ("hub/hub/*/snapshots/*/*",),
            ("hub/hub/*/blobs/*",),
            ("hub/hub/*", "hub/hub/*/snapshots/*"),
        ),
        ("plan hub", "status", "why hub", "verify"),
        ("build hub", "build -k hub merged"),
        times=4,
    ),
    "data": Subject(
        (
            ("work/talk.jsonl",),
            ("work/talk.jsonl.gz",),
            ("work/rows.csv", "work/rows.tsv"),
            ("work/rows.json",),
            ("work/rows.parquet",),
            ("work/rows.jsonl.zst",),
        ),
        (
            "plan talk table columns",
            "status",
            "init -f new.yaml --model model --data talk.jsonl",
            "init -f new.yaml --model model --data rows.csv",
            "init -f new.yaml --model model --data rows.json",
            "init -f new.yaml --model model --data rows.parquet",
            "why talk",
        ),
        (
            "build -k talk table columns",
            "build -k talk table columns",
            "predict finished --in talk.jsonl --max-tokens 1",
        ),
    ),
    "metrics": Subject(
        (("work/numbers.json",), ("work/words.txt",)),
        (
            "build measured",
            "build --json measured",
            "status --json",
            "why measured",
            "report --markdown",
        ),
    ),
    "recipe": Subject(
        (("work/olivebuild.yaml",), ("work/olivebuild.lock",)),
        (
            "plan",
            "plan --json",
            "status --json",
            "why merged",
            "graph",
            "graph --mermaid",
            "verify",
            "report --markdown",
            "history",
        ),
    ),
    "cache": Subject(
        (
            ("cache/blobs/*/*.trace",),
            ("cache/blobs/*/*",),
            ("cache/traces/*", "cache/derived/*"),
            ("cache/places/*", "cache/workspaces/*"),
            ("cache/history/*",),
            ("cache/*", "cache/locks/*", "cache"),
            ("work/.olivebuild/*",),
            ("work/.olivebuild/*",),
            ("work/build/*/*", "work/build/*"),
            ("work/.olivebuild", "work/build", "cache/blobs", "cache/tmp", "cache/checkpoints"),
        ),
        (
            "plan merged",
            "plan --json",
            *LOOKS,
            "why merged",
            "report",
            "compare",
            "build brought base measured",
            "build -k brought table measured",
            "build merged",
            "verify --repair",
            "gc --delete --older-than 0d",
            "clean",
            "compare --json last~1 last",
            "log measured",
        ),
        ("build -k", "build -k merged int4 talk finished"),
    ),
}
