"""The loops that are compared, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._train_figures import ceiling
from benchmarks._train_ours import (
    large_on_two_cards,
    ours_cpu,
    ours_long,
    ours_on_small_card,
    ours_short,
    ours_texts,
)
from benchmarks._train_peers import stock_long, stock_one, trainer_cpu, trl_liger


def child(options: argparse.Namespace) -> None:
    # What libraries print must not mix with the figures.
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found = VARIANTS[options.variant](Path(options.folder), options)
    stream.write("\n" + json.dumps(found) + "\n")
    stream.flush()


VARIANTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "ceiling": ceiling,
    "ours": ours_cpu,
    "trainer": trainer_cpu,
    "ours-long": ours_long,
    "ours-long-nodropout": lambda folder, options: ours_long(folder, options, dropout=0.0),
    "ours-long-plain": lambda folder, options: ours_long(folder, options, speed="plain"),
    "qlora-long": lambda folder, options: ours_long(folder, options, method="qlora"),
    "fp8-long": lambda folder, options: ours_long(folder, options, training={"base": "fp8"}),
    "offload-long": lambda folder, options: ours_long(folder, options, training={"offload": "cpu"}),
    "offload-8-gib": ours_on_small_card,
    "ours-short": ours_short,
    "ours-one-gpu": lambda folder, options: ours_texts(folder, options, 1),
    "ours-two-gpus": lambda folder, options: ours_texts(folder, options, 2),
    "ours-four-gpus": lambda folder, options: ours_texts(folder, options, 4),
    "fp8-two-gpus": lambda folder, options: ours_texts(
        folder, options, 2, training={"base": "fp8"}
    ),
    "sharded-two-gpus": lambda folder, options: ours_texts(
        folder, options, 2, training={"shard": "base"}
    ),
    "large-two-gpus": large_on_two_cards,
    "qlora-two-gpus": lambda folder, options: ours_texts(folder, options, 2, method="qlora"),
    "short-one-gpu": lambda folder, options: ours_texts(folder, options, 1, short=True),
    "short-two-gpus": lambda folder, options: ours_texts(folder, options, 2, short=True),
    "stock-long": stock_long,
    "stock-one": stock_one,
    "trl-liger": trl_liger,
}
