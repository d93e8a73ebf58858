"""Layers of an int4 model that would mend it in 8 bits: measured by rounding the source's weights.

Each kind of layer is kept in 8 bits by itself, all others in 4; then the kinds that bring most for
their bytes, together. What is measured is the distance of logits from the source's, at answers that
int4 lost. Nothing is loaded where its answers differ from the source's by noise alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.errors import first_line
from olivebuild.core.fs.small_files import read_json
from olivebuild.metrics.diagnostics.losses import loss_between
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.records import YES_OR_NO, DataMetrics
from olivebuild.steps.measurements.sensitivity import MOST_PARAMETERS, ROWS

if TYPE_CHECKING:
    import torch

    from olivebuild.ml.data.examples import Example

ENOUGH = 0.5
"""The share of the distance that layers in 8 bits may leave to be a mend."""
MOST_KINDS = 4
LARGE = 0.75
"""Layers that leave more than this share are not worth their bytes."""
JOINED = dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj")
JOINED |= dict.fromkeys(("gate_proj", "up_proj"), "gate_up_proj")
"""Layers that one product may hold, in transformers or in the graph, by the name of that."""


@dataclass(kw_only=True)
class Kind:
    """A kind of layer: its products in the graph that have 4 bits, and the source's layers."""

    patterns: set[str] = field(default_factory=set)
    nodes: dict[str, int] = field(default_factory=dict)
    """node -> its bits"""
    layers: list[Any] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """The bytes that 8 bits take more than 4."""
        return sum(int(layer.weight.numel()) for layer in self.layers) // 2


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    lost = _lost(job)
    result: dict[str, Any] = {}
    if lost:
        try:
            result = _measure(job, *lost)
        except Exception as e:  # noqa: BLE001
            # What is measured besides fails no benchmark.
            result = {"why_not": first_line(e)}
        if result.get("why_not"):
            job.note(f"which layers would mend it was not measured: {result['why_not']}")
    (job.out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    job.result = Result(metrics=result)


def _lost(job: Job) -> tuple[int, list[int]] | None:
    """Return the data set on which int4 loses most surely, with rows, those first that it lost."""
    ours, theirs = (
        [
            decode(row, DataMetrics)
            for row in read_json(Path(job.input(role).folder) / "metrics.json")
        ]
        for role in ("answers", "source_answers")
    )
    losses = []
    for i, (first, second) in enumerate(zip(ours, theirs, strict=True)):
        loss = loss_between(first, second)
        if loss and loss.metric in YES_OR_NO and loss.is_sure(len(ours)):
            losses.append((loss.difference.p or 0.0, i, loss.metric))
    if not losses:
        return None
    _, i, metric = min(losses)
    right = YES_OR_NO[metric]
    both = zip(ours[i].answers, theirs[i].answers, strict=True)
    marks = [(bool(right(a)), bool(right(b))) for a, b in both]
    rows = sorted(range(len(marks)), key=lambda k: (marks[k] != (False, True), k))
    return i, rows[:ROWS]


def _measure(job: Job, data: int, rows: Sequence[int]) -> dict[str, Any]:
    """Return the sensitivities as metrics/records.py has them."""
    import torch

    from olivebuild.ml.models import load

    source, onnx = job.input("source"), job.input("model")
    tensors = (f.stat().st_size for f in Path(source.folder).glob("*.safetensors"))
    if sum(tensors) > 2 * MOST_PARAMETERS:
        return {"why_not": f"{source.target} has more than {MOST_PARAMETERS:,} parameters"}
    block, nodes = quantised_nodes(Path(onnx.folder))
    model = load.load_model(
        source.folder,
        torch.float32,
        torch.device("cpu"),
        trust_remote_code=source.trust_remote_code,
        where=job.where(),
    )
    kinds = kinds_of(model, nodes)
    if not kinds:
        return {"why_not": f"no layer of {onnx.target} is known by its name in {source.target}"}
    ablation = Ablation(model, kinds, block, _examples(job, data, rows))
    return _search(job, ablation) | {"data": job.input(f"data[{data}]").target, "rows": len(rows)}


def _search(job: Job, ablation: Ablation) -> dict[str, Any]:
    """Return each kind's part of the distance, and the kinds that together leave little of it."""
    names = [name for name, kind in ablation.kinds.items() if kind.patterns]
    done, total = 0, len(names) + MOST_KINDS

    def left(chosen: Sequence[str]) -> float:
        nonlocal done
        done += 1
        job.progress("trying layers in 8 bits", min(done, total), total)
        return ablation.distance(chosen) / whole

    whole = ablation.distance(())
    if not whole:
        return {"why_not": "rounding to nearest changes no logit"}
    alone = {name: left([name]) for name in names}
    by_gain = sorted(names, key=lambda n: (alone[n] - 1) / max(1, ablation.kinds[n].bytes))
    chosen: list[str] = []
    rest = 1.0
    for name in [n for n in by_gain if alone[n] < 1][:MOST_KINDS]:
        further = left([*chosen, name])
        if further < rest:
            chosen, rest = [*chosen, name], further
        if rest <= ENOUGH:
            break
    groups = [ablation.record([name], alone[name]) for name in names]
    result: dict[str, Any] = {"rms": round(whole, 6), "groups": groups}
    if rest <= LARGE:
        result["chosen"] = ablation.record(chosen, rest)
    else:
        result["why_not"] = f"{MOST_KINDS} kinds of layers in 8 bits leave {rest:.0%} of it"
    return result


class Ablation:
    """A model whose layers are rounded to 4 bits, all but some kinds, which have 8."""

    def __init__(
        self, model: Any, kinds: Mapping[str, Kind], block: int, examples: Sequence[Example]
    ) -> None:
        self.kinds = kinds
        self._model, self._block, self._examples = model, block, examples
        self._expected = self._logits()

    def distance(self, eight: Sequence[str]) -> float:
        """Return the root mean square of logits' differences, in units of the logits' spread."""
        import torch

        with self._rounded(eight):
            actual = self._logits()
        pairs = list(zip(self._expected, actual, strict=True))
        square = torch.cat([(a - b).square().flatten() for a, b in pairs]).mean()
        spread = torch.cat([a.square().flatten() for a, _ in pairs]).mean()
        return float((square / spread.clamp(min=1e-30)).sqrt())

    def _logits(self) -> list[torch.Tensor]:
        """Return the centred logits that predict each answer, [answer, vocabulary]."""
        import torch

        rows = []
        with torch.inference_mode():
            for example in self._examples:
                ids = torch.tensor([[*example.prompt, *example.completion]])
                logits = self._model(input_ids=ids, use_cache=False).logits[0].float()
                at = logits[len(example.prompt) - 1 : -1]
                rows.append(at - at.mean(-1, keepdim=True))
        return rows

    @contextmanager
    def _rounded(self, eight: Sequence[str]) -> Iterator[None]:
        """Round the layers' weights inside the context."""
        import torch

        before = []
        for name, kind in self.kinds.items():
            bits = 8 if name in eight or not kind.patterns else 4
            for layer in kind.layers:
                before.append((layer, layer.weight))
                values = rounded(layer.weight.data, bits, self._block)
                # A parameter of its own: the head's may be the embedding's, too.
                layer.weight = torch.nn.Parameter(values, requires_grad=False)
        try:
            yield
        finally:
            for layer, weight in before:
                layer.weight = weight

    def record(self, names: Sequence[str], left: float) -> dict[str, Any]:
        layers = sorted(pattern for name in names for pattern in self.kinds[name].patterns)
        count = sum(self.kinds[name].bytes for name in names)
        return {"layers": layers, "left": round(left, 4), "bytes": count}


def rounded(weight: torch.Tensor, bits: int, block: int) -> torch.Tensor:
    """Return a weight [out, in] rounded to nearest, with a scale and a zero for each block.

    As MatMulNBits dequantises: https://github.com/microsoft/onnxruntime/blob/main/docs/
    ContribOperators.md#com.microsoft.MatMulNBits
    """
    import torch

    out, width = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -width % block)).view(out, -1, block)
    low, high = padded.amin(-1, keepdim=True).clamp(max=0), padded.amax(-1, keepdim=True).clamp(0)
    scale = (high - low).clamp(min=1e-12) / (2**bits - 1)
    zero = (-low / scale).round()
    levels = (padded / scale + zero).round().clamp(0, 2**bits - 1)
    values: torch.Tensor = ((levels - zero) * scale).view(out, -1)[:, :width]
    return values.contiguous()


def quantised_nodes(folder: Path) -> tuple[int, dict[str, int]]:
    """Return the block size, and the bits of each quantised product by its name before that."""
    import onnx

    file = read_json(folder / "genai_config.json")["model"]["decoder"]["filename"]
    graph = onnx.load(str(folder / file), load_external_data=False).graph
    block, nodes = 32, dict[str, int]()
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            numbers = {a.name: a.i for a in node.attribute}
            block = int(numbers["block_size"])
            nodes[re.sub(r"_Q\d$", "", node.name)] = int(numbers["bits"])
    return block, nodes


def kinds_of(model: Any, nodes: Mapping[str, int]) -> dict[str, Kind]:
    """Return the kinds of layers that both the graph and the source have, by their names.

    A kind that the graph holds in 8 bits alone has no patterns.
    """
    import torch

    kinds: dict[str, Kind] = {}
    for node, bits in nodes.items():
        kind = kinds.setdefault(_kind_of(node.split("/")[-2]), Kind())
        kind.nodes[node] = bits
        if bits == 4:
            kind.patterns.add(re.sub(r"/layers\.\d+/", "/layers.*/", node))
    for name, module in model.named_modules():
        kind_name = _kind_of(name.rpartition(".")[2])
        if isinstance(module, torch.nn.Linear) and kind_name in kinds:
            kinds[kind_name].layers.append(module)
    return {name: kind for name, kind in kinds.items() if kind.layers}


def _kind_of(layer: str) -> str:
    return JOINED.get(layer, layer)


def _examples(job: Job, data: int, rows: Sequence[int]) -> list[Example]:
    """Return rows of a test split as tokens of the source."""
    from olivebuild.ml.data.examples import read_table
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.inference.context import examples_of
    from olivebuild.ml.models import load

    source = job.input("source")
    tokenizer = load.load_tokenizer(
        source.folder, trust_remote_code=source.trust_remote_code, date=job.action.template_date
    )
    table = read_table(job.input(f"data[{data}]").path)
    return examples_of(Encoder(tokenizer), replace(table, rows=[table.rows[i] for i in rows]))
