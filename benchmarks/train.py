"""Training an adapter: olivebuild's loop beside the loops that people use, on the same rows, in the
same order, from the same start.

    python benchmarks/train.py
    python benchmarks/train.py --quick

Without a GPU: the quick start's model and rows, beside the transformers Trainer. With one: a
Phi-3-mini of random weights, beside a stock loop, TRL + Liger, and rows one at a time.

Each variant runs in a process of its own; its figures are printed as soon as it ends, and one that
fails is told and left out. Tokens a second are the rows' own tokens, without padding, over the
steps after the first ones; "of the ceiling" counts 4 floating-point operations a parameter and
token, against what a matrix product reaches on the same card in a tenth of a second. Phi-3-mini's
own options: a sliding window of 2047, LoRA of rank 64 on qkv_proj and o_proj, dropout 0.1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._measure import Claim, end, table
from benchmarks._train_inputs import build_quick_start, make_model, make_rows, make_texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--intermediate", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32064)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--length", type=int, default=2048, help="tokens in a row of the long rows")
    parser.add_argument("--rows", type=int, default=256, help="short rows in a batch")
    parser.add_argument("--steps", type=int, default=10, help="measured steps")
    parser.add_argument("--rounds", type=int, default=2, help="times each side runs, in turn (CPU)")
    parser.add_argument("--only", default="", help="names of variants, separated by commas")
    parser.add_argument("--limit", type=int, default=180, help="seconds for one variant")
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="the variants meant for a GPU, also where there is none (to try them out)",
    )
    parser.add_argument(
        "--model", default="", help="a folder with a base model instead of the quick start's"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, under a minute; no goals"
    )
    parser.add_argument("--json", action="store_true", help="only the last line")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        (
            options.hidden,
            options.intermediate,
            options.layers,
            options.heads,
            options.vocabulary,
            options.rank,
        ) = 64, 128, 2, 4, 400, 4
        options.length, options.rows, options.steps, options.rounds = 48, 16, 3, 1
    if options.variant:
        from benchmarks._train_variants import child

        child(options)
        return
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    with tempfile.TemporaryDirectory(prefix="train-", dir=os.environ.get("BENCHMARK_DIR")) as name:
        (gpu if options.gpu or has_gpu() else cpu)(Path(name), options)


def has_gpu() -> bool:
    return (
        shutil.which("nvidia-smi") is not None
        and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    )


def measure(
    name: str, folder: Path, options: argparse.Namespace, results: dict[str, dict[str, Any]]
) -> None:
    """Run a variant in a process of its own, and note and print what it found."""
    if options.only and name not in options.only.split(","):
        return
    words = [w for w in sys.argv[1:] if w != "--json"]
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, __file__, *words, "--variant", name, "--folder", str(folder)],
            capture_output=True,
            text=True,
            timeout=options.limit,
        )
        found = (
            json.loads(done.stdout.splitlines()[-1])
            if done.returncode == 0
            else {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:300]}
        )
        if done.returncode:
            print(done.stderr[-1500:], file=sys.stderr, flush=True)
    except subprocess.TimeoutExpired as e:
        found = {"failed": f"took more than {options.limit} s"}
        # How far it came.
        last = (e.stderr or b"").decode(errors="replace")
        print(last[-1500:], file=sys.stderr, flush=True)
    except (ValueError, IndexError):
        found = {"failed": "said nothing"}
    old = results.get(name, {})
    results[name] = (
        found if found.get("tokens_per_second", 0) >= old.get("tokens_per_second", 0) else old
    )
    shown = {k: v for k, v in found.items() if k != "losses"}
    print(
        f"{time.monotonic() - start:6.1f} s  {name}: {json.dumps(shown)}",
        file=sys.stderr,
        flush=True,
    )


# Without a GPU


def cpu(root: Path, options: argparse.Namespace) -> None:
    results: dict[str, dict[str, Any]] = {}
    if options.quick:
        make_model(root / "base", options)
        make_rows(root)
    elif options.model:
        (root / "base").symlink_to(Path(options.model).resolve())
        build_quick_start(root, "tone")
    else:
        build_quick_start(root, "base", "tone")
    for _ in range(options.rounds):
        for name in ("trainer", "ours"):
            measure(name, root, options, results)
    report(
        results,
        [("ours", "trainer", "real tokens a second beside the transformers Trainer", 2.0)],
        options,
    )


# With one


def gpu(root: Path, options: argparse.Namespace) -> None:
    results: dict[str, dict[str, Any]] = {}
    start = time.monotonic()
    make_texts(root, options.length)
    wanted = options.only.split(",") if options.only else list(GPU)
    if wanted != [LARGE]:
        make_model(root / "base", options)
    print(f"{time.monotonic() - start:6.1f} s  model made", file=sys.stderr, flush=True)
    for name in GPU:
        measure(name, root, options, results)
    if LARGE in wanted:
        # It takes 85 GB beside the other, which nobody needs any more.
        shutil.rmtree(root / "base", ignore_errors=True)
        start = time.monotonic()
        make_model(root / "large", options, "write_large")
        print(f"{time.monotonic() - start:6.1f} s  large model made", file=sys.stderr, flush=True)
        measure(LARGE, root, options, results)
    pairs = [
        (
            "ours-long",
            "stock-long",
            f"tokens a second, 4 rows of {options.length}, beside a stock loop",
            2.2,
        ),
        ("ours-long-nodropout", "stock-long", "the same without dropout", 2.2),
        ("ours-long-nodropout", "trl-liger", "tokens a second beside TRL + Liger", 1.0),
        ("fp8-long", "ours-long", "tokens a second with a base in FP8 beside bf16", 1.35),
        ("fp8-long", "qlora-long", "tokens a second with a base in FP8 beside QLoRA", 1.0),
        ("ours-two-gpus", "ours-one-gpu", "tokens a second on two GPUs beside one", 1.8),
        ("short-two-gpus", "short-one-gpu", "the same, rows of 20 to 60 words", 1.8),
        (
            "ours-short",
            "stock-one",
            "tokens a second, rows of 20 to 60 tokens, beside one row at a time",
            60.0,
        ),
    ]
    report(results, pairs, options)


GPU = (
    "ceiling",
    "ours-long",
    "stock-long",
    "ours-long-nodropout",
    "ours-short",
    "stock-one",
    "qlora-long",
    "fp8-long",
    "trl-liger",
    "ours-long-plain",
    "offload-long",
    "offload-8-gib",
    "ours-one-gpu",
    "ours-two-gpus",
    "fp8-two-gpus",
    "sharded-two-gpus",
    "qlora-two-gpus",
    "short-one-gpu",
    "short-two-gpus",
    "ours-four-gpus",
)
"""What matters most comes first."""
LARGE = "large-two-gpus"
"""Only where it is asked for by `--only`."""


def report(
    results: dict[str, dict[str, Any]],
    pairs: list[tuple[str, str, str, float]],
    options: argparse.Namespace,
) -> None:
    ceiling = results.get("ceiling", {}).get("flops", 0.0)
    rows, claims = [], []
    for name, found in results.items():
        if "failed" in found:
            rows.append([name, "failed", found["failed"][:80], "", ""])
        elif "tokens_per_second" in found:
            flops = 4 * found["parameters"] * found["tokens_per_second"]
            share = f"{flops / (ceiling * found.get('gpus', 1)):.1%}" if ceiling else ""
            losses = found.get("losses", [])
            shown = f"{losses[0]:.4f} to {losses[-1]:.4f}" if losses else ""
            rows.append(
                [
                    name,
                    f"{found['tokens_per_second']:,.0f}",
                    share,
                    f"{found['memory'] / 2**30:.1f} GiB",
                    shown,
                ]
            )
    for ours, peer, what, goal in pairs:
        a, b = results.get(ours, {}), results.get(peer, {})
        if "tokens_per_second" in a and "tokens_per_second" in b:
            x, y = a["tokens_per_second"], b["tokens_per_second"]
            claims.append(
                Claim(
                    what,
                    round(x, 1),
                    round(y, 1),
                    "tokens/s",
                    round(x / y, 2),
                    None if options.quick else goal,
                )
            )
            n = min(len(a.get("losses", [])), len(b.get("losses", [])))
            if n and not options.json:
                apart = max(
                    abs(p - q) for p, q in zip(a["losses"][:n], b["losses"][:n], strict=True)
                )
                print(f"losses of {ours} and {peer} differ by at most {apart:.2g} over {n} steps")
        else:
            print(
                f"not measured: {what} ({a.get('failed') or b.get('failed') or 'left out'})",
                file=sys.stderr,
            )
    for name, least in (("ours-long", 0.6), ("ours-long-nodropout", 0.6), ("ours-short", 0.55)):
        found = results.get(name, {})
        if ceiling and "tokens_per_second" in found:
            reached = 4 * found["parameters"] * found["tokens_per_second"]
            ratio = round(reached / ceiling, 3)
            claims.append(
                Claim(
                    f"{name}: share of the matmul ceiling",
                    reached / 1e12,
                    ceiling / 1e12,
                    "TFLOP/s",
                    ratio,
                    None if options.quick else least,
                )
            )
    if not options.json:
        print()
        if ceiling:
            print(
                f"ceiling: {ceiling / 1e12:.0f} TFLOP/s; kept busy for some seconds, "
                f"{results['ceiling']['sustained'] / 1e12:.0f} TFLOP/s"
            )
        print(table(["", "tokens/s", "of the ceiling", "peak memory", "loss"], rows))
    end(
        claims, "torch", "transformers", "peft", "accelerate", "trl", "liger_kernel", "bitsandbytes"
    )


if __name__ == "__main__":
    main()
