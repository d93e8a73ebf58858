"""`python ask.py FOLDER TEXT`: asks a model that olivebuild built or exported."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import onnxruntime_genai as og


def ask(model: og.Model, text: str, limit: int = 64) -> Iterator[str]:
    """Yield the answer in pieces, `limit` tokens at most."""
    tokenizer = og.Tokenizer(model)
    messages = json.dumps([{"role": "user", "content": text}])
    tokens = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
    params = og.GeneratorParams(model)
    # One more: the last token, be it the end of the answer, is not written.
    params.set_search_options(max_length=len(tokens) + limit + 1)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    stream = tokenizer.create_stream()
    while True:
        generator.generate_next_token()
        if generator.is_done():
            return
        yield stream.decode(generator.get_next_tokens()[0])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python ask.py FOLDER TEXT")
    for piece in ask(og.Model(sys.argv[1]), sys.argv[2]):
        print(piece, end="", flush=True)
    print()
