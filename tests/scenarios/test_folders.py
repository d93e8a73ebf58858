"""Model folders are those that transformers loads: in shards, with other weight files beside them,
with something missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.store import Store
from tests.formats.test_safetensors import digest_of, write
from tests.scenarios.steps import LORA, given
from tests.scenarios.test_merges import by_peft, merge
from tests.support.tiny_models import make_adapter

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]


def sharded(model: Path, folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(model, dtype="auto").save_pretrained(
        folder, max_shard_size="100KB"
    )
    for path in model.iterdir():
        if path.suffix != ".safetensors" and not (folder / path.name).exists():
            (folder / path.name).write_bytes(path.read_bytes())
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def test_a_merge_into_a_base_in_shards_is_loaded_by_transformers(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = sharded(llama, tmp_path / "base")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    write(base / "before.safetensors", {"model.norm.weight": ("F32", [1], b"abcd")})
    make_adapter(base, tmp_path / "adapter", **LORA)
    merged = merge(tmp_path / "job", store, given(store, base), tmp_path / "adapter", publish=True)
    folder = tmp_path / "merged"
    store.restore(store.manifest(merged.manifest), folder)
    names = {p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file()}
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == names - {
        "before.safetensors"
    }
    # Its type tells of a model alone, whatever is asked for.
    load: Any = AutoModelForCausalLM.from_pretrained
    loaded, info = load(folder, dtype="auto", output_loading_info=True)
    assert [info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")] == [
        set()
    ] * 3
    found = {
        name: t.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for name, t in loaded.state_dict().items()
    }
    assert found == by_peft(base, tmp_path / "adapter")
    assert digest_of(folder) == merged.digest
    ours, theirs = (
        json.loads((f / "model.safetensors.index.json").read_text()) for f in (folder, base)
    )
    assert ours == theirs
