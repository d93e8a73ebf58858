"""Trust: none is granted, and what needs it is refused without stopping the import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.recipe.importers.olive.ledger import Fate
from tests.recipe.importers.olive.examples import fates, flat, imported

NATIVE = {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}
OWN = {
    "model_type": "strange",
    "architectures": ["StrangeForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling.StrangeForCausalLM"},
}
PATH = "input_model.load_kwargs.trust_remote_code"


@pytest.mark.parametrize(
    ("config", "asked", "fate"),
    [
        (NATIVE, True, Fate.NO_EFFECT),
        (NATIVE | {"auto_map": OWN["auto_map"]}, True, Fate.NO_EFFECT),
        (OWN, True, Fate.REFUSED),
        (OWN, False, Fate.NO_EFFECT),
        (None, True, Fate.NO_EFFECT),
        ([], True, Fate.NO_EFFECT),
    ],
)
def test_only_what_is_native_needs_no_trust(
    tmp_path: Path, config: Any, asked: bool, fate: Fate
) -> None:
    folder = tmp_path / "models/small"
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    model = {
        "type": "HfModel",
        "model_path": "models/small",
        "load_kwargs": {"trust_remote_code": asked},
    }
    done = imported(tmp_path, flat(input_model=model))
    assert not done.faults
    assert fates(done)[PATH].fate is fate
    assert "trust_remote_code: true" not in done.recipe
    if fate is Fate.REFUSED:
        assert "write trust_remote_code: true below base" in fates(done)[PATH].hint
