"""A process that takes the gradients of its share of each batch of a training: `python -m olivebuild.steps._helper FILE RANK COUNT MEETING DTYPE`.

FILE holds the training's action. It ends with the process that started it; see _ranks.py.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import torch.distributed as dist

from olivebuild.executor import Action
from olivebuild.steps import _models, _ranks, _train
from olivebuild.steps.adapter import AdapterFields
from olivebuild.worker import Job, end_with_parent


def main(file: str, rank: int, count: int, meeting: str, dtype: str) -> None:
    # Whoever asks the worker's whole session to stop means the worker, which first ends its step and keeps its state.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # What it has to say is the log's.
    job = Job(Action.from_json(Path(file).read_text()), sys.stderr)
    fields: AdapterFields = job.fields(AdapterFields)
    device, number_format = _models.platform(dtype)
    rows = _train.rows_of(job, fields)
    schedule = _train.schedule_of(fields.training, len(rows))
    forward = _train.forward_of(job, fields, rows, schedule, device, number_format)
    _ranks.connect(Path(meeting), rank, count, device)
    _ranks.help_out(forward, rows, schedule, fields.training.seed, rank, count)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
