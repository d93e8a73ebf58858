"""The process of `chat`, `predict` and `serve` that holds the model.

`python -m olivebuild.ml.inference.chat_process SETTINGS`; settings and lines are JSON.

In: {"ask": n, "messages": [...]} or {"ask": n, "text": "...", "form": i}, each with an "adapter"
where it is not the first that answers, and {"stop": n}, which ends answer n early.

Out: {"event": "ready"}, {"event": "text", "text": t}, {"event": "end"}, {"event": "refused", ...}
for a question that can't be answered; for rows {"event": "row", "row": {...}, "text": t};
{"event": "error", ...}. What `serve` asks and is told stands in serving/process.py.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import BuildError, InputError, StepError, first_line

if TYPE_CHECKING:
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.inference.runtime import Runtime

Say = Callable[..., None]


def main() -> None:
    settings = json.loads(sys.argv[1])
    # What libraries print must not mix with what we say: the real stdout is ours alone, and fd 1
    # becomes the log.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(event: str, **data: object) -> None:
        stream.write(json.dumps({"event": event, **data}, ensure_ascii=False, default=str) + "\n")
        stream.flush()

    requests = Requests()
    try:
        if settings["rows"]:
            predict(settings, say)
        elif settings["served"]:
            serve(settings, requests, say)
        else:
            chat(settings, requests, say)
    except BuildError as e:
        say("error", **e.to_json())
    except ModuleNotFoundError as e:
        traceback.print_exc()
        hint = "pip install 'olivebuild[build]' installs what models need"
        say("error", **StepError(f"the library {e.name} is not installed", hint=hint).to_json())
    except BaseException as e:  # noqa: BLE001
        # The last stop of the process: the parent shows what ended it.
        traceback.print_exc()
        say(
            "error",
            **StepError(
                f"{type(e).__name__}: {first_line(e)}",
                hint=f"{settings['log']} has the whole story",
            ).to_json(),
        )
    # The threads of libraries must not keep a process that has said all.
    os._exit(0)


class Requests:
    """Answer what the parent asks, in order.

    When it closes its end, this process ends, whatever it is doing.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.stopped = -1
        """Answers up to this one are not wanted any more."""
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> dict[str, Any]:
        return self._queue.get()

    def _read(self) -> None:
        with os.fdopen(os.dup(0), encoding="utf-8") as lines:
            for line in lines:
                request = json.loads(line)
                if "stop" in request:
                    self.stopped = request["stop"]
                else:
                    self._queue.put(request)
        os._exit(0)


def open_subject(settings: Mapping[str, Any]) -> tuple[Runtime, Encoder]:
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.inference.generate import open_model

    runtime = open_model(
        settings["folder"],
        settings["adapter"],
        trust_remote_code=settings["trust_remote_code"],
        trust_adapter=settings["trust_adapter"],
        date=settings["template_date"],
    )
    return runtime, Encoder(runtime.tokenizer, ends=runtime.ends)


def open_voices(settings: Mapping[str, Any]) -> dict[str, tuple[Runtime, Encoder]]:
    """Open the model, "", and what may answer in its slots, by name."""
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.inference.onnx_runtime import OnnxRuntime

    if not settings.get("adapters"):
        return {"": open_subject(settings)}
    runtime, encoder = open_subject({**settings, "adapter": ""})
    assert isinstance(runtime, OnnxRuntime)
    voices: dict[str, tuple[Runtime, Encoder]] = {"": (runtime, encoder)}
    for name, (folder, date) in settings["adapters"].items():
        other = runtime.adapted(folder, date)
        voices[name] = (other, Encoder(other.tokenizer, ends=other.ends))
    return voices


def chat(settings: Mapping[str, Any], requests: Requests, say: Say) -> None:
    """Answers until the parent goes."""
    import numpy as np

    from olivebuild.ml.inference.context import context_of, room_for
    from olivebuild.ml.inference.generate import Decoder, speech, tokens
    from olivebuild.ml.inference.predict import Form, from_messages

    voices = open_voices(settings)
    forms, context = (
        [Form(**form) for form in settings["forms"]],
        context_of(Path(settings["folder"])),
    )
    draw = np.random.default_rng(0)
    if not forms and not any(_has_template(runtime) for runtime, _ in voices.values()):
        _check_template(voices[""][0], settings["folder"])
    say("ready")
    while True:
        request = requests.next()
        runtime, encoder = voices[request.get("adapter", "")]
        try:
            if "text" in request:
                prompt = forms[request.get("form", 0)].filled(request["text"], encoder)
            else:
                _check_template(runtime, settings["folder"])
                prompt = from_messages(request["messages"], encoder)
            room = room_for(prompt, settings["max_tokens"], context)
        except BuildError as e:
            say("refused", **e.to_json())
            continue
        decoder = Decoder(runtime.tokenizer)
        for token in tokens(
            speech(runtime, prompt, room), encoder.ends, room, settings["temperature"], draw
        ):
            if requests.stopped >= request["ask"]:
                break
            if piece := decoder.add(token):
                say("text", text=piece)
        if piece := decoder.rest():
            say("text", text=piece)
        say("end")


def _has_template(runtime: Runtime) -> bool:
    return bool(getattr(runtime.tokenizer, "chat_template", None))


def _check_template(runtime: Runtime, folder: str) -> None:
    """Raise InputError for a model without a chat template."""
    if not _has_template(runtime):
        hint = "with --data NAME, what you write is put into that data set's template"
        raise InputError("the model has no chat template", where=folder, hint=hint)


def serve(settings: Mapping[str, Any], requests: Requests, say: Say) -> None:
    """Answers requests of a server until the parent goes."""
    from olivebuild.ml.inference.context import context_of
    from olivebuild.ml.inference.predict import Form
    from olivebuild.ml.inference.serving.process import Served, serve

    voices, context = open_voices(settings), context_of(Path(settings["folder"]))
    models = {}
    for name, form in settings["served"].items():
        # Who is no adapter is the model itself.
        runtime, encoder = voices[name if name in settings["adapters"] else ""]
        models[name] = Served(
            runtime=runtime,
            encoder=encoder,
            form=None if form is None else Form(**settings["forms"][form]),
            context=context,
        )
    serve(models, requests, say, most_tokens=settings["max_tokens"])


def predict(settings: Mapping[str, Any], say: Say) -> None:
    """Answers the rows from number `first` on.

    Whatever is wrong with any row is found before the first is answered.
    """
    from olivebuild.ml.inference.context import context_of, room_for
    from olivebuild.ml.inference.predict import (
        Form,
        answers,
        expected_of,
        prompts_of,
        read_rows,
    )

    rows, form = read_rows(
        Path(settings["rows"]), settings["shown"], [Form(**f) for f in settings["forms"]]
    )
    runtime, encoder = open_subject(settings)
    prompts = prompts_of(rows, form, encoder)
    context, limit = context_of(Path(settings["folder"])), settings["max_tokens"]
    rooms = [
        room_for(prompt, limit, context, row.where)
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    say("ready", rows=len(rows), form=form.name, expected=expected_of(rows, form, encoder))
    for row, text in answers(runtime, encoder, rows, prompts, rooms, settings["first"]):
        say("row", row=row.columns, text=text)
    say("end")


if __name__ == "__main__":
    main()
