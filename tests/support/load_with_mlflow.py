"""`python load_with_mlflow.py PROMPT FOLDER...`: what MLflow's models answer, as JSON."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path


def main(prompt: str, *folders: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import pandas as pd  # type: ignore[import-untyped]

    answers = []
    for folder in folders:
        model = mlflow.pyfunc.load_model(folder)
        names = model.metadata.get_input_schema().input_names()
        table = pd.DataFrame({"prompt": [prompt]})
        answer = list(model.predict(table, params={"max_new_tokens": 8}))
        kind = type(model._model_impl).__name__
        answers.append({"inputs": names, "answer": answer, "kind": kind})
        if Path(folder, "components").is_dir():
            import mlflow.transformers

            pipeline = mlflow.transformers.load_model(folder)
            answers[-1]["network"] = type(pipeline.model).__name__
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
