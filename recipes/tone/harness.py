"""Tasks of the lm-evaluation-harness on a model: `python harness.py MODEL OUT TASK...`, each by its
name there, or a YAML file here.

Writes OUT/metrics.json, a number for each metric of each task: `tone_acc`, `tone_acc_stderr`. Needs
`pip install lm-eval`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def main(folder: Path, out: Path, names: list[str]) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    files = [Path(name) for name in names if name.endswith(".yaml")]
    # The harness finds tasks of one's own by the folders that they lie in, and then calls them by
    # name.
    manager = TaskManager(include_path=sorted({str(file.parent) for file in files}) or None)
    tasks = [Path(name).stem if name.endswith(".yaml") else name for name in names]
    # An ONNX folder carries its provider; a Hugging Face folder runs on the processor, as the
    # benchmark's models do.
    backend = "onnxruntime-genai" if (folder / "genai_config.json").is_file() else "hf"
    arguments = {"pretrained": str(folder)} | ({"device": "cpu"} if backend == "hf" else {})
    found = simple_evaluate(
        model=backend,
        model_args=arguments,
        tasks=tasks,
        batch_size=1,
        task_manager=manager,
        log_samples=False,
        bootstrap_iters=0,
    )
    assert found is not None
    metrics = {}
    for task, row in found["results"].items():
        for name, value in row.items():
            # `acc,none` is a metric and the filter that its answers went through.
            if isinstance(value, int | float) and "," in name and value == value:
                metric, _, kept = name.partition(",")
                metrics[
                    re.sub(r"\W", "_", f"{task}_{metric}" + (f"_{kept}" if kept != "none" else ""))
                ] = value
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
