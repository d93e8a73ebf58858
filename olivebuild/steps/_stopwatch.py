"""`python -m olivebuild.steps._stopwatch FOLDER SETTINGS`: one model's latency, as a JSON line."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from olivebuild.worker import end_with_parent, peak_rss

Run = Callable[[list[int], int], list[float]]


def main() -> None:
    folder, settings = sys.argv[1], json.loads(sys.argv[2])
    new_tokens = settings["new_tokens"]
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    from olivebuild.steps import _runtime

    start = time.perf_counter()
    runtime = _runtime.open_model(folder, trust_remote_code=settings["trust_remote_code"])
    loaded = time.perf_counter() - start
    run = _onnx(runtime) if isinstance(runtime, _runtime.OnnxRuntime) else _hugging_face(runtime)
    generator = np.random.default_rng(0)
    prompt = generator.integers(0, len(runtime.tokenizer), settings["prompt_tokens"]).tolist()
    run(prompt, new_tokens)
    first, gaps = [], []
    for _ in range(settings["rounds"]):
        times = run(prompt, new_tokens)
        first.append(times[0])
        gaps += [b - a for a, b in itertools.pairwise(times)]
    figures = {
        "load_seconds": loaded,
        "ttft": statistics.median(first),
        "ttft_p95": float(np.percentile(first, 95)),
        "tokens_per_second": 1 / statistics.median(gaps) if gaps else None,
        "peak_rss": peak_rss(),
        "samples": {"ttft": first, "gaps": gaps},
    }
    stream.write(json.dumps(figures) + "\n")
    stream.flush()


def _hugging_face(runtime: Any) -> Run:
    import torch

    @torch.inference_mode()
    def run(prompt: list[int], new_tokens: int) -> list[float]:
        """Seconds from the start to each new token, the end token ignored."""
        start, times = time.perf_counter(), []
        ids, cache = torch.tensor([prompt], device=runtime.device), None
        for _ in range(new_tokens):
            out = runtime.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
            ids.tolist()
            times.append(time.perf_counter() - start)
        return times

    return run


def _onnx(runtime: Any) -> Run:
    import onnxruntime_genai as og

    def run(prompt: list[int], new_tokens: int) -> list[float]:
        params = og.GeneratorParams(runtime.model)
        length = len(prompt) + new_tokens
        # With min_length the end token can't stop the run early.
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        start = time.perf_counter()
        times: list[float] = []
        generator = og.Generator(runtime.model, params)
        generator.append_tokens(np.array(prompt, dtype=np.int32))
        while len(times) < new_tokens and not generator.is_done():
            generator.generate_next_token()
            generator.get_next_tokens()
            times.append(time.perf_counter() - start)
        return times

    return run


if __name__ == "__main__":
    main()
