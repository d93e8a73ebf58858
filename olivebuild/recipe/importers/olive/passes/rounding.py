"""GPTQ, AWQ, RTN and SelectiveMixedPrecision on PyTorch models -> how the ONNX model is rounded."""

from __future__ import annotations

from dataclasses import replace

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.options import Option, Options
from olivebuild.recipe.importers.olive.table import sections
from olivebuild.recipe.importers.olive.workflow import Pass, Rounding, State, Workflow

ROUNDERS = ("gptqquantizer", "gptqmodel", "gptq", "rtn", "kquant", "autoawqquantizer")
CONVERTERS = ("modelbuilder", "onnxconversion", "optimumconversion")
MIXED = {
    "k_quant_mixed": ("k_quant_mixed", ""),
    "k_quant_last": ("k_quant_last", ""),
    "k_quant_down": ("k_quant_mixed", "nearest to k_quant_down: more of attention in 8 bits, too"),
    "kld_gradient": ("k_quant_mixed", "nearest to kld_gradient, which measures layers by data"),
}


def map_rounder(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Hand on what GPTQ, AWQ or RTN decide for the ONNX model to be."""
    if not _is_converted(workflow):
        pass_.section.refused(
            "type",
            "a model with rounded weights in PyTorch is no target here",
            'add a pass {"type": "ModelBuilder", "precision": "int4"}',
        )
        pass_.options.ledger.no_effect(pass_.options.path, "its pass is refused")
        return state
    options = Options(workflow, pass_.options, sections()[pass_.type])
    return _Rounder(workflow, state, pass_, options).map()


def _is_converted(workflow: Workflow) -> bool:
    passes = workflow.root.section("passes")
    for name in passes.value if passes else ():
        for _path, item in passes.items(name) if passes else ():
            if isinstance(item, dict) and str(item.get("type")).lower() in CONVERTERS:
                return True
    return False


class _Rounder:
    """Collects the fields of the ONNX model that a rounding of PyTorch's weights decides."""

    def __init__(self, workflow: Workflow, state: State, pass_: Pass, options: Options) -> None:
        self.workflow = workflow
        self.state = state
        self.pass_ = pass_
        self.options = options
        self.roundings = {r.field: r for r in state.quantisation}

    def map(self) -> State:
        bits_key = "w_bit" if self._is_old_awq() else "bits"
        bits = self.options.read(bits_key, int)
        last = self._last(bits)
        if last:
            self._claim_rest_of_last(bits)
        else:
            self._whole(bits)
        self.options.rest()
        return replace(self.state, quantisation=tuple(self.roundings.values()))

    def _is_old_awq(self) -> bool:
        return "w_bit" in self.options.fields and not self.workflow.generation.since(0, 9)

    def _last(self, bits: Option) -> bool:
        """Return whether the pass rounds what an earlier one left: the head, in 8 bits."""
        return bits.value == 8 and bool(self.roundings)

    def _claim_rest_of_last(self, bits: Option) -> None:
        before = self.roundings.get("algorithm")
        value = str(before.value) if before else "k_quant"
        if value in ("k_quant", "rtn"):
            self._put("algorithm", f"{value}_last", bits.paths, "the head in 8 bits")
        field = "algorithm"
        for key in ("bits", "lm_head", "embeds", "group_size", "sym", "overrides"):
            if key in self.options.section:
                self.options.section.mapped(key, field, "the head is in 8 bits")

    def _whole(self, bits: Option) -> None:
        if bits.value == 8:
            self._put("precision", "int8", bits.paths)
        elif bits.value != 4 and not bits.open:
            for path in bits.paths:
                self.workflow.ledger.refused(path, f"{bits.value} bits a weight", "4 or 8")
        for path in bits.paths:
            self.workflow.ledger.mapped(path, "precision")
        group = self.options.read(
            "q_group_size" if "q_group_size" in self.options.fields else "group_size", int
        )
        self._group(group)
        key = "zero_point" if "zero_point" in self.options.fields else "sym"
        symmetric = self.options.read(key, bool)
        value = symmetric.value
        if key == "zero_point" and isinstance(value, bool):
            value = not value
        self._put("symmetric", value, symmetric.paths, symmetric.note)
        name = {"rtn": "rtn"}.get(self.pass_.type, "k_quant")
        if "algorithm" not in self.roundings:
            is_same = self.pass_.type in ("rtn", "kquant")
            note = "" if is_same else f"nearest to {sections()[self.pass_.type]}"
            self._put("algorithm", name, (self.pass_.section.at("type"),), note)
        for flag in ("lm_head", "embeds"):
            if flag in self.options.section:
                self.options.section.no_effect(
                    flag, "the model builder rounds the head with the other weights, no embedding"
                )

    def _group(self, group: Option) -> None:
        if group.value in (16, 32, 64, 128, 256) or group.open:
            self._put("block_size", group.value, group.paths, group.note)
            for path in group.paths:
                self.workflow.ledger.mapped(path, "block_size")
            return
        for path in group.paths:
            if group.value == -1:
                self.workflow.ledger.no_effect(
                    path, "-1, one scale a row: blocks of the builder's default are finer"
                )
            else:
                self.workflow.ledger.refused(
                    path, f"blocks of {group.value}", "16, 32, 64, 128 or 256"
                )

    def _put(
        self, field: str, value: object, paths: tuple[tuple[str | int, ...], ...], note: str = ""
    ) -> None:
        path = paths[0] if paths else self.pass_.section.path
        self.roundings[field] = Rounding(field=field, value=value, path=path, note=note)
        for place in paths:
            self.workflow.ledger.mapped(place, field)


def map_mixed(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Hand on which layers SelectiveMixedPrecision keeps in more bits."""
    if not _is_converted(workflow):
        return map_rounder(workflow, state, pass_)
    options = Options(workflow, pass_.options, "SelectiveMixedPrecision")
    option = options.read("algorithm", str)
    name = (option.text or "").lower()
    value, note = MIXED.get(name, ("k_quant_mixed", ""))
    if name not in MIXED and not option.open:
        for path in option.paths or (pass_.section.at("type"),):
            workflow.ledger.refused(
                path, f"{name!r} is no algorithm here", did_you_mean(name, MIXED)
            )
    path = option.paths[0] if option.paths else pass_.section.path
    for place in option.paths:
        workflow.ledger.mapped(place, "algorithm", note)
    for key in ("bits", "high_bits", "ratio", "group_size", "sym"):
        if key in options.section:
            options.section.no_effect(key, "the algorithm says which layers are kept in 8 bits")
    options.rest()
    rounding = Rounding(field="algorithm", value=value, path=path, note=note)
    others = tuple(r for r in state.quantisation if r.field != "algorithm")
    return replace(state, quantisation=(*others, rounding))
