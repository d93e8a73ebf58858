"""Runs commands in forks of a process that has imported what they need: `python -m
tests.fuzzer.server ROOT [heavy]`.

Reads a JSON object a line, {"arguments", "folder", "out"}, or {"make": true}, once; answers with
the process's id, and with how it ended. What a fork's Python runs, opens to write or connects to
outside the sandbox ROOT, or runs from within it, goes into ROOT.alarms. A heavy server has imported
torch, transformers, peft and onnxruntime, and workers are forks, too.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import tests.support.fork_server
from olivebuild.__main__ import main as olivebuild_main
from tests.support.fuzzing import Guard

LIGHT = [
    "olivebuild.cli.queries", "olivebuild.cli.caches.local", "olivebuild.cli.results",
    "olivebuild.ui.console",
    "olivebuild.planner.checks.models",
    "olivebuild.ui.why", "olivebuild.ui.graph_text", "olivebuild.planner.verify",
    "olivebuild.cache.gc",
    "olivebuild.ui.report", "olivebuild.engine.build_comparison",
    "olivebuild.recipe.scaffold.first_rows", "olivebuild.engine.history",
    "olivebuild.recipe.schema", "olivebuild.data.inspection.sources",
    "olivebuild.cli.setup", "olivebuild.cli.doctor",
    "olivebuild.cli.inference.chat", "olivebuild.cli.inference.predict", "olivebuild.steps.model",
    "olivebuild.steps.adapter", "olivebuild.steps.merged", "olivebuild.steps.onnx",
    "olivebuild.steps.dataset", "olivebuild.steps.benchmark",
    "olivebuild.steps.choice", "rich.traceback",
]  # fmt: skip
HEAVY = [
    "torch", "transformers", "peft", "onnx", "onnxruntime", "onnxruntime_genai", "pyarrow",
    "pyarrow.parquet", "safetensors.torch", "gguf",
    "peft.peft_model", "transformers.models.llama.modeling_llama",
    "transformers.models.llama.tokenization_llama",
    "transformers.models.phi3.modeling_phi3", "transformers.modeling_gguf_pytorch_utils",
    "olivebuild.ml.models.opened", "olivebuild.ml.weights.lora",
    "olivebuild.ml.onnx.assemble", "olivebuild.ml.kernels.numpy_threads",
    "olivebuild.ml.onnx.builder",
    "olivebuild.ml.training.train",
    "olivebuild.ml.inference.predict", "olivebuild.ml.onnx.trial",
    "onnxruntime_genai.models.builder",
]  # fmt: skip
MEMORY = 16 << 30
"""Address space of a command."""
PROGRAMS = ("cp", "nvidia-smi", "git", "cc", "gcc", "g++")
"""What the recipe runs, and what asks about the machine."""
FREE = ("/dev/", "/proc/")


class Alarm(Guard):
    """Writes down what a command does outside the sandbox, and what of the sandbox it runs."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        super().__init__()
        self.folders = [self.root]

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.active:
            return
        super()._hear(event, arguments)
        if event == "exec":
            file = getattr(arguments[0], "co_filename", "")
            if str(file).startswith(self.root):
                self.seen.append(f"exec {file}")
        elif event == "ctypes.dlopen" and str(arguments[0]).startswith(self.root):
            self.seen.append(f"dlopen {arguments[0]}")
        if self.seen:
            self._tell()

    def _tell(self) -> None:
        self.active = False
        told = [line for line in self.seen if not self._is_known(line)]
        self.seen.clear()
        if told:
            with open(self.root + ".alarms", "a", errors="backslashreplace") as f:
                f.write("".join(line.replace("\n", "\\n") + "\n" for line in told))
        self.active = True

    @staticmethod
    def _is_known(line: str) -> bool:
        event, _, rest = line.partition(" ")
        if event == "subprocess.Popen":
            program = rest.split("'")[1] if "'" in rest else ""
            return program in PROGRAMS or (
                program == sys.executable and f"'{sys.executable}', '-P'" in rest
            )
        return rest.startswith(FREE) or (event == "socket.connect" and "AF_UNIX" in rest)


def run(request: dict[str, object], root: str, heavy: bool) -> None:
    os.setsid()
    os.chdir(str(request["folder"]))
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{request['out']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if request.get("fork_workers", True):
        subprocess.Popen = tests.support.fork_server.Forked  # type: ignore[misc]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = ["olivebuild", *request["arguments"]]  # type: ignore[misc]
    Alarm(root).active = True
    olivebuild_main()


def fork(request: dict[str, object], root: str, heavy: bool) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        if request.get("make"):
            from tests.fuzzer import making

            os.dup2(2, 1)
            making.main(Path(root))
        else:
            run(request, root, heavy)
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except BaseException:  # noqa: BLE001
        # As the interpreter does at its end: a traceback is what the fuzzer looks for.
        import traceback

        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> dict[str, object]:
    """How the process ended; what it left running is ended, too, and told."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left: list[int] = []
    deadline = time.monotonic() + 5
    while True:
        try:
            one, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if one == 0:
            if time.monotonic() > deadline:
                for orphan in children():
                    left.append(orphan)
                    os.kill(orphan, signal.SIGKILL)
                deadline += 60
            time.sleep(0.002)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "code": code,
        "left": len(left),
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def children() -> list[int]:
    return [
        int(p) for p in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    ]


def main() -> None:
    root, heavy = sys.argv[1], len(sys.argv) > 2
    # Who loses his parent becomes our child, and is seen.
    # https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    for module in (*LIGHT, *(HEAVY if heavy else ())):
        with suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        pid = fork(json.loads(line), root, heavy)
        print(pid, flush=True)
        print(json.dumps(wait(pid)), flush=True)


if __name__ == "__main__":
    main()
