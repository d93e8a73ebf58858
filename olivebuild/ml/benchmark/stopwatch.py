"""One model, loaded once, that runs whenever a line comes.

`python -m olivebuild.ml.benchmark.stopwatch FOLDER SETTINGS`.

Says what it loaded, then a line of JSON for each line of standard input, and ends with it. Imports
only what the model's own runtime needs, so that its memory is that of a program that runs the
model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olivebuild.core.fs.small_files import read_json
from olivebuild.core.host import peak_rss, physical_cores
from olivebuild.ml.benchmark.energy import Meter
from olivebuild.ml.onnx.trial import capacity

Run = Callable[[list[int], int], list[float]]


@dataclass(frozen=True)
class Loaded:
    """A model that can run.

    `run(prompt, new_tokens)` gives the seconds from the start to each new token, whatever tokens
    they are.
    """

    run: Run
    vocabulary: int
    threads: int
    provider: str
    gpu_memory: Callable[[], int | None]


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    # What libraries print goes to the log.
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(data: dict[str, Any]) -> None:
        stream.write(json.dumps(data) + "\n")
        stream.flush()

    start = time.perf_counter()
    loaded = (
        _onnx(folder, settings["adapter"], trust=settings["trust_remote_code"])
        if (folder / "genai_config.json").is_file()
        else _hugging_face(folder, settings["trust_remote_code"])
    )
    say(
        {
            "load_seconds": time.perf_counter() - start,
            "threads": loaded.threads,
            "provider": loaded.provider,
        }
    )
    prompt = (
        np.random.default_rng(0).integers(0, loaded.vocabulary, settings["prompt_tokens"]).tolist()
    )
    meter = Meter(gpu=loaded.provider != "cpu")
    for _ in sys.stdin:
        before = meter.joules()
        times = loaded.run(prompt, settings["new_tokens"])
        after = meter.joules()
        joules = None if before is None or after is None else after - before
        say(
            {
                "times": times,
                "joules": joules,
                "peak_rss": peak_rss(),
                "gpu_memory": loaded.gpu_memory(),
            }
        )


def _hugging_face(folder: Path, trust_remote_code: bool) -> Loaded:
    import torch

    from olivebuild.ml.models import load

    device, dtype = load.platform()
    model = load.load_model(folder, dtype, device, trust_remote_code=trust_remote_code)

    @torch.inference_mode()
    def run(prompt: list[int], new_tokens: int) -> list[float]:
        start, times = time.perf_counter(), []
        ids, cache = torch.tensor([prompt], device=device), None
        for _ in range(new_tokens):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
            ids.tolist()
            times.append(time.perf_counter() - start)
        return times

    def gpu_memory() -> int | None:
        return int(torch.cuda.max_memory_reserved()) if device.type == "cuda" else None

    return Loaded(
        run,
        int(model.config.get_text_config().vocab_size),
        torch.get_num_threads(),
        device.type,
        gpu_memory,
    )


def _onnx(folder: Path, adapter: str, *, trust: bool) -> Loaded:
    """Open an ONNX folder, with the adapter of a folder in its slots unless that is empty."""
    import onnxruntime_genai as og

    from olivebuild.ml.models import genai
    from olivebuild.ml.onnx.slots.adapter_file import FILE

    whole = read_json(folder / "genai_config.json")
    config = whole["model"]
    session = config["decoder"].get("session_options", {})
    providers = [name for options in session.get("provider_options", []) for name in options]
    model = genai.open_model(folder, trust=trust)
    adapters = og.Adapters(model) if adapter else None
    if adapters:
        adapters.load(str(Path(adapter, FILE)), adapter)

    def run(prompt: list[int], new_tokens: int) -> list[float]:
        params = og.GeneratorParams(model)
        length = len(prompt) + new_tokens
        # With min_length the end token can't stop the run early.
        params.set_search_options(
            max_length=capacity(whole, length), min_length=length, do_sample=False
        )
        start = time.perf_counter()
        times: list[float] = []
        generator = og.Generator(model, params)
        if adapters:
            generator.set_active_adapter(adapters, adapter)
        generator.append_tokens(np.array(prompt, dtype=np.int32))
        while len(times) < new_tokens and not generator.is_done():
            generator.generate_next_token()
            generator.get_next_tokens()
            times.append(time.perf_counter() - start)
        return times

    def gpu_memory() -> int | None:
        return _memory_by_tool() if providers else None

    threads = session.get("intra_op_num_threads") or physical_cores()
    return Loaded(
        run,
        int(config["vocab_size"]),
        int(threads),
        providers[0] if providers else "cpu",
        gpu_memory,
    )


def _memory_by_tool() -> int | None:
    """Return what the NVIDIA driver says this process holds now."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    rows = [line.split(",") for line in answer.splitlines() if line.count(",") == 1]
    held = [
        int(memory)
        for pid, memory in rows
        if pid.strip() == str(os.getpid()) and memory.strip().isdigit()
    ]
    return sum(held) * 2**20 if held else None


if __name__ == "__main__":
    main()
