"""Process that writes a GGUF file: `python -m olivebuild.ml.gguf.convert SETTINGS`.

Settings are JSON: folder, out, type, name. It answers with one line: {"event": "written", ...} or
{"event": "error", ...}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from olivebuild.core.errors import BuildError, InputError, StepError, first_line
from olivebuild.formats.gguf import architectures

DATE = "2000-01-01"
"""What templates are told that ask for one; two, to see whether they do."""
OTHER_DATE = "2011-12-13"
SECONDS = 60.0
"""Time that a chat template has for a few conversations; one that takes longer does not end."""


def main() -> None:
    settings = json.loads(sys.argv[1])
    # What libraries print must not mix with the answer: the real stdout is ours alone.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        answer: dict[str, object] = {"event": "written", **convert(**settings)}
    except BuildError as e:
        answer = {"event": "error", **e.to_json()}
    except ModuleNotFoundError as e:
        hint = "pip install 'olivebuild[build]' installs what models need"
        error: BuildError = StepError(f"the library {e.name} is not installed", hint=hint)
        answer = {"event": "error", **error.to_json()}
    except BaseException as e:  # noqa: BLE001
        # The last stop of the process: the parent shows what ended it.
        traceback.print_exc()
        error = StepError(f"{type(e).__name__}: {first_line(e)}", hint="is the disk full?")
        answer = {"event": "error", **error.to_json()}
    stream.write(json.dumps(answer, ensure_ascii=False) + "\n")
    stream.flush()
    # The threads of libraries must not keep a process that has said all.
    os._exit(0)


def convert(folder: str, out: str, type: str, name: str) -> dict[str, object]:  # noqa: A002
    """Write the file, and return what a Modelfile and a card say of it. Raises BuildError."""
    from transformers import AutoConfig

    from olivebuild.formats import imported
    from olivebuild.ml.data.end_tokens import NAME, model_ends, read
    from olivebuild.ml.gguf import writer
    from olivebuild.ml.models.load import load_published_tokenizer

    place = Path(folder)
    architecture = architectures.check_model(place)
    imported.check(place, "model", folder, trust=False)
    tokenizer = load_published_tokenizer(place)
    config = AutoConfig.from_pretrained(place, local_files_only=True)
    template = _main_template(tokenizer)
    ends = model_ends(read(place / NAME), read(place / "config.json"))
    chat = _in_time(place) if template else None
    written = writer.write(
        writer.Model(
            name=name,
            folder=place,
            architecture=architecture,
            config=config,
            tokenizer=tokenizer,
            template=template,
            ends=tuple(ends),
            begins_special=chat.begins_special if chat else False,
        ),
        type,
        Path(out),
    )
    beginning = str(tokenizer.bos_token or "") if written.begins else ""
    return {
        "architecture": architecture,
        "context": written.context,
        "is_limited": written.context < config.max_position_embeddings,
        "notes": list(written.notes),
        "runs": written.runs,
        "ends": [text for text in tokenizer.convert_ids_to_tokens(ends) if text],
        "template": chat.to_go(beginning) if chat else None,
        "is_chat": bool(template),
        "has_system": bool(chat and chat.has_system),
    }


def _main_template(tokenizer: Any) -> str:
    """Return the chat template as it was published; of several the default one."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else ""


def _in_time(folder: Path) -> _Chat:
    """Return the chat template, rendered. Raises InputError for one that does not end."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(_Chat, folder).result(SECONDS)
    except TimeoutError:
        fact = f"the chat template did not end within {SECONDS:.0f} s"
        hint = "mend the template of the tokenizer"
        raise InputError(fact, where=str(folder), hint=hint) from None
    finally:
        # What does not end goes with the process.
        pool.shutdown(wait=False)


class _Chat:
    """The chat template of a model, rendered."""

    def __init__(self, folder: Path) -> None:
        from olivebuild.ml.gguf.turns import turns_of
        from olivebuild.ml.models.load import load_tokenizer

        self._tokenizers = [load_tokenizer(folder, date=date) for date in (DATE, OTHER_DATE)]
        self.begins_special = self._begins_special()
        turns = [
            turns_of(self._renderer(tokenizer), str(tokenizer.bos_token or ""))
            for tokenizer in self._tokenizers
        ]
        # One that writes a date is not the same on all days.
        self._turns = turns[0] if turns[0] == turns[1] else None

    def _renderer(self, tokenizer: Any) -> Any:
        def render(messages: Sequence[dict[str, str]], answers: bool) -> str:
            text: str = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answers
            )
            return text

        return render

    @property
    def has_system(self) -> bool:
        return bool(self._turns and "system" in self._turns.around)

    def _begins_special(self) -> bool:
        """Return whether prompts begin with a special token."""
        tokenizer = self._tokenizers[0]
        try:
            text = self._renderer(tokenizer)([{"role": "user", "content": "a"}], True)
        except Exception:  # noqa: BLE001
            # Of a template that can't be rendered nothing is known.
            return False
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return bool(ids) and ids[0] in tokenizer.added_tokens_decoder

    def to_go(self, beginning: str) -> str | None:
        return self._turns.to_go(beginning) if self._turns else None


if __name__ == "__main__":
    main()
