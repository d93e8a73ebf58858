"""Olive's words for devices and execution providers, each mapped to a provider or refused.

The words are those of olive/hardware (constants.py, accelerator.py) and olive/systems/common.py,
0.2.1 to main of 2026-08. What its ModelBuilder made of each is in olive/passes/onnx/
model_builder.py: a provider that it did not know was built for the processor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from olivebuild.recipe.importers.positions import Placeholder

Path = tuple[str | int, ...]
MISSING = object()
"""What stands for a field that the file does not have."""
Outcome = Literal["mapped", "ignored", "differs", "refused"]
"""Mapped; without effect here; meant something else than it says; refused."""

EXECUTION_PROVIDERS = {
    "cpu": "cpu",
    "cuda": "cuda",
    "dml": "dml",
    "directml": "dml",
    "webgpu": "webgpu",
    "js": "webgpu",
    "web": "webgpu",
}
"""The name without its ending, in small letters -> the provider"""
GPU = "gpu"
DEVICES = {"cpu": "cpu", "cpu_spr": "cpu", "gpu": GPU, "cuda": GPU, "dml": GPU, "webgpu": GPU}
NO_DEVICES = {
    "npu": "an NPU takes models that its maker's own tools quantise and compile",
    "vpu": "OpenVINO's MYRIAD devices were given up with OpenVINO 2023",
    "intel_myriad": "OpenVINO's MYRIAD devices were given up with OpenVINO 2023",
}
REFUSED = {
    "qnn": "Qualcomm's QNN takes graphs of fixed shapes, quantised and compiled for one chip",
    "snpe": "Qualcomm's SNPE takes models of its own format",
    "openvino": "onnxruntime-genai runs on OpenVINO only what Intel's tools converted",
    "vitisai": "AMD's Vitis AI takes models that Quark quantised and Ryzen AI's tools compiled",
    "tensorrt": "onnxruntime-genai's model builder writes nothing for TensorRT",
    "nvtensorrtrtx": "TensorRT for RTX is a plug-in of its own, and no provider of onnx targets",
    "rocm": "onnxruntime-genai has no build for ROCm",
    "migraphx": "onnxruntime-genai has no build for MIGraphX",
    "coreml": "onnxruntime-genai's model builder writes nothing for Core ML",
    "azure": "it sends each request to a service, and no model is built for it",
    "acl": "onnxruntime-genai's model builder writes nothing for the Arm Compute Library",
    "armnn": "onnxruntime-genai's model builder writes nothing for Arm NN",
    "cann": "onnxruntime-genai's model builder writes nothing for Huawei's CANN",
    "dnnl": "onnxruntime-genai's model builder writes nothing for oneDNN",
    "nnapi": "onnxruntime-genai's model builder writes nothing for Android's NNAPI",
    "rknpu": "Rockchip's NPU takes models of its own format",
    "tvm": "onnxruntime-genai's model builder writes nothing for TVM",
    "vsinpu": "VeriSilicon's NPU takes models of its own format",
    "webnn": "onnxruntime-genai's model builder writes nothing for WebNN",
    "xnnpack": "onnxruntime-genai's model builder writes nothing for XNNPACK",
}
INSTEAD = {
    "tensorrt": "cuda",
    "nvtensorrtrtx": "cuda",
    "rocm": "webgpu",
    "migraphx": "webgpu",
    "coreml": "webgpu",
    "webnn": "webgpu",
}
"""The provider that comes nearest, where it is not the processor."""
FIELDS = ("device", "execution_providers", "memory")


@dataclass(frozen=True, kw_only=True)
class Word:
    """One leaf of an accelerator: what it says, and what becomes of it.

    `path` begins with `accelerators` or `execution_providers`. `provider` is "" for a word that
    chooses none.
    """

    path: Path
    word: object
    outcome: Outcome
    provider: str | Placeholder = ""
    because: str = ""
    hint: str = ""
    unheard_of: bool = False
    """Whether Olive has no such word, so that it is a slip wherever it stands."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Providers that the accelerators of a system ask for.

    `providers` are those to build for, in the order of the file; none where no word names one.
    `words` has each leaf once.
    """

    providers: tuple[str | Placeholder, ...]
    words: tuple[Word, ...]

    @property
    def refused(self) -> tuple[Word, ...]:
        """The words that stop what is built for them."""
        return tuple(word for word in self.words if word.outcome == "refused")


def read_provider(word: object, path: Path = ()) -> Word:
    """Return what one execution provider becomes: `CUDAExecutionProvider`, `cuda`, `QNN`.

    A placeholder stays one: the ONNX models for it are not built before it is replaced.
    """
    if isinstance(word, Placeholder):
        return Word(path=path, word=word, outcome="mapped", provider=word)
    if not isinstance(word, str):
        because = f"{_text(word)} is not the name of an execution provider"
        return Word(path=path, word=word, outcome="refused", because=because, hint=_example())
    name = _plain(word)
    if provider := EXECUTION_PROVIDERS.get(name):
        because = "ONNX Runtime Web's older name of WebGPU" if name in ("js", "web") else ""
        return Word(path=path, word=word, outcome="mapped", provider=provider, because=because)
    if reason := REFUSED.get(name):
        hint = f"provider: {INSTEAD.get(name, 'cpu')} comes nearest"
        return Word(path=path, word=word, outcome="refused", because=reason, hint=hint)
    because = f"{_text(word)} is no execution provider of ONNX Runtime"
    return Word(
        path=path,
        word=word,
        outcome="refused",
        because=because,
        hint=_example(),
        unheard_of=True,
    )


def read_device(word: object, path: Path = ()) -> Word:
    """Return what a device without execution providers becomes: `gpu`, `CPU`, `npu`."""
    if isinstance(word, Placeholder):
        return Word(path=path, word=word, outcome="mapped", provider=word)
    name = word.strip().lower() if isinstance(word, str) else ""
    device = DEVICES.get(name)
    if device == "cpu":
        return Word(path=path, word=word, outcome="mapped", provider="cpu")
    if device == GPU and name != GPU:
        return Word(path=path, word=word, outcome="mapped", provider=name)
    if device == GPU:
        because = (
            "Olive took what the installed onnxruntime offered for a GPU; here that is cuda, its "
            "own choice of today"
        )
        return Word(path=path, word=word, outcome="differs", provider="cuda", because=because)
    because = NO_DEVICES.get(name) or f"{_text(word)} is no device of Olive"
    return Word(
        path=path,
        word=word,
        outcome="refused",
        because=because,
        hint="device: cpu or gpu",
        unheard_of=name not in NO_DEVICES,
    )


def read_accelerators(
    accelerators: object = MISSING, execution_providers: object = MISSING
) -> Reading:
    """Return what a system's `accelerators` and an engine's `execution_providers` ask for.

    Leave out what the file does not have. Accelerators are names of devices up to 0.5.0, for which
    the engine's providers count, and objects with providers of their own from 0.5.1 on.
    """
    words: list[Word] = []
    devices: list[Word] = []
    has_its_own = False
    of_engine = execution_providers not in (MISSING, None)
    for path, entry in _entries(accelerators, ("accelerators",)):
        if _is_empty(entry):
            words.append(_nothing(entry, path))
        elif isinstance(entry, Mapping):
            has_its_own = has_its_own or bool(entry.get("execution_providers"))
            words += _read_object(entry, path, of_engine=of_engine, devices=devices)
        else:
            (devices if of_engine else words).append(read_device(entry, path))
    names = tuple(_plain(str(d.word)) for d in devices if d.outcome != "refused")
    engine = list(_read_list(execution_providers, ("execution_providers",), names))
    if has_its_own and not devices:
        engine = _beside_own(engine, {word.provider for word in words if word.provider})
    words += [_with_providers(device, engine) for device in devices]
    words += engine
    chosen = dict.fromkeys(word.provider for word in words if word.provider)
    return Reading(providers=tuple(chosen), words=tuple(words))


def _read_object(
    entry: Mapping[str, object], path: Path, *, of_engine: bool, devices: list[Word]
) -> Iterator[Word]:
    """Yield the words of one accelerator.

    Its device goes to `devices` where the engine's providers count for it.
    """
    device, its_own = entry.get("device"), entry.get("execution_providers")
    word = None if _is_empty(device) else read_device(device, (*path, "device"))
    names = (_plain(str(device)),) if word and word.outcome != "refused" else ()
    providers = list(
        _read_list(entry.get("execution_providers", MISSING), (*path, "execution_providers"), names)
    )
    if word and of_engine and _is_empty(its_own):
        devices.append(word)
    elif word:
        yield _with_providers(word, [p for p in providers if p.outcome != "ignored"])
    elif "device" in entry:
        yield _nothing(device, (*path, "device"))
    yield from providers
    yield from _other_fields(entry, path)


def _other_fields(entry: Mapping[str, object], path: Path) -> Iterator[Word]:
    for name, value in entry.items():
        if name == "memory":
            because = "it only told Olive how to split a model over devices"
            yield Word(path=(*path, name), word=value, outcome="ignored", because=because)
        elif name not in FIELDS:
            because = f"an accelerator has no field {_text(name)}"
            hint = f"its fields are {', '.join(FIELDS)}"
            yield Word(
                path=(*path, name), word=value, outcome="refused", because=because, hint=hint
            )


def _read_list(value: object, path: Path, devices: Sequence[str]) -> Iterator[Word]:
    """Yield each provider of a list, refused where none of the devices has it."""
    for place, entry in _entries(value, path):
        if _is_empty(entry):
            yield _nothing(entry, place)
        elif isinstance(entry, list):
            yield from _read_plug_in(entry, place, devices)
        else:
            yield _on_devices(read_provider(entry, place), devices)


def _read_plug_in(pair: list[object], path: Path, devices: Sequence[str]) -> Iterator[Word]:
    """Yield the words of a provider and the library that brings it (from 0.9.2 on)."""
    yield _on_devices(read_provider(pair[0], (*path, 0)), devices)
    because = "it names a library to load, and no library is loaded that a configuration names"
    for index, library in enumerate(pair[1:], 1):
        yield Word(path=(*path, index), word=library, outcome="ignored", because=because)


def _on_devices(word: Word, devices: Sequence[str]) -> Word:
    """Return a provider's word, refused where all devices are processors and it needs a GPU."""
    on_processor = devices and all(DEVICES.get(name) == "cpu" for name in devices)
    if not on_processor or word.provider in ("", "cpu") or isinstance(word.provider, Placeholder):
        return word
    return replace(
        word,
        outcome="refused",
        provider="",
        because=f"{word.word} needs a GPU, and the device is {devices[0]}",
        hint="device: gpu, or CPUExecutionProvider",
    )


def _with_providers(device: Word, providers: Sequence[Word]) -> Word:
    """Return a device's word where providers are named, which choose instead of it."""
    if device.outcome == "refused" or not providers:
        return device
    device = replace(device, outcome="mapped", provider="", because="", hint="")
    named = {word.provider for word in providers if word.provider}
    if DEVICES.get(_plain(str(device.word))) == GPU and named == {"cpu"}:
        because = "CPUExecutionProvider alone is named for it, which runs on the processor"
        return replace(device, outcome="differs", because=because)
    return device


def _beside_own(engine: list[Word], its_own: set[str | Placeholder]) -> list[Word]:
    """Return the engine's providers where each accelerator names providers of its own."""
    because = "the accelerators name their own, and from 0.5.1 on Olive takes none in the engine"
    return [
        word
        if word.outcome == "refused" or word.provider in its_own
        else replace(word, outcome="ignored", provider="", because=because)
        for word in engine
    ]


def _entries(value: object, path: Path) -> Iterator[tuple[Path, object]]:
    """Yield each entry with its path; a value that is no list is one entry."""
    if isinstance(value, list) and value:
        for index, entry in enumerate(value):
            yield (*path, index), entry
    elif value is not MISSING:
        yield path, value


def _is_empty(value: object) -> bool:
    return value is None or value in ([], {})


def _nothing(value: object, path: Path) -> Word:
    return Word(path=path, word=value, outcome="ignored", because="it is empty: as if left out")


def _plain(name: str) -> str:
    """Return a name in small letters, without `ExecutionProvider`, blanks and signs."""
    letters = re.sub(r"[^a-z0-9_]", "", name.strip().lower())
    plain = letters.removesuffix("executionprovider")
    return plain if plain in DEVICES else plain.replace("_", "")


def _text(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | list | dict) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _example() -> str:
    return 'for example "CPUExecutionProvider" or "CUDAExecutionProvider"'
