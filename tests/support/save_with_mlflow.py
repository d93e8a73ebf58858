"""`python save_with_mlflow.py MODEL FOLDER [ADAPTER]`: a model as mlflow itself saves it."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any


def main(model: str, folder: str, adapter: str = "") -> None:
    # mlflow asks the hub for the licence of any name.
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    import mlflow.transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network: Any = AutoModelForCausalLM.from_pretrained(model)
    if adapter:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, adapter)
    mlflow.transformers.save_model(
        {"model": network, "tokenizer": AutoTokenizer.from_pretrained(model)},
        folder,
        task="text-generation",
        pip_requirements=["transformers"],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
