"""Olive's words for devices and execution providers: what each becomes, and that none is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olivebuild.recipe.importers.olive.providers import (
    EXECUTION_PROVIDERS,
    REFUSED,
    Reading,
    Word,
    read_accelerators,
    read_device,
    read_provider,
)
from olivebuild.recipe.importers.positions import Placeholder
from olivebuild.steps.parts.conversion_options import PRECISIONS

NAMES = [
    *("CPU", "CUDA", "Dml", "OpenVINO", "Tensorrt", "ROCM", "MIGraphX", "NvTensorRTRTX", "Js"),
    *("QNN", "VitisAI", "WebGpu", "Azure", "CoreML"),
]
"""The providers of olive/hardware/constants.py, and others that its files name."""


def outcomes(reading: Reading) -> dict[str, str]:
    return {".".join(map(str, word.path)): word.outcome for word in reading.words}


@pytest.mark.parametrize("name", NAMES)
def test_each_provider_of_olive_is_mapped_or_refused_with_a_reason(name: str) -> None:
    word = read_provider(f"{name}ExecutionProvider")
    if word.outcome == "mapped":
        assert word.provider in PRECISIONS
    else:
        assert word.outcome == "refused"
        assert word.because
        assert word.hint


@pytest.mark.parametrize(
    ("word", "provider"),
    [
        ("CPUExecutionProvider", "cpu"),
        ("cpu", "cpu"),
        ("CUDAExecutionProvider", "cuda"),
        ("CudaExecutionProvider", "cuda"),
        ("CUDA", "cuda"),
        ("DmlExecutionProvider", "dml"),
        ("DirectML", "dml"),
        ("WebGpuExecutionProvider", "webgpu"),
        ("WebGPU", "webgpu"),
        ("JsExecutionProvider", "webgpu"),
    ],
)
def test_one_spelling_is_as_good_as_another(word: str, provider: str) -> None:
    assert read_provider(word).provider == provider


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("QNNExecutionProvider", "Qualcomm"),
        ("NvTensorRTRTXExecutionProvider", "TensorRT for RTX"),
        ("NvTensorRtRtx", "TensorRT for RTX"),
        ("ROCMExecutionProvider", "no build for ROCm"),
        ("CUDAExecutionProvidr", "'CUDAExecutionProvidr' is no execution provider"),
        (7, "7 is not the name"),
        (None, "None is not the name"),
    ],
)
def test_what_is_refused_is_refused_by_its_name(word: object, says: str) -> None:
    refused = read_provider(word)
    assert refused.outcome == "refused"
    assert refused.provider == ""
    assert says in refused.because


def test_devices_without_providers() -> None:
    assert read_device("CPU").provider == "cpu"
    assert read_device("cpu_spr").provider == "cpu"
    gpu = read_device("GPU")
    assert (gpu.provider, gpu.outcome) == ("cuda", "differs")
    for device in ("npu", "vpu", "intel_myriad", "tpu", 3):
        assert read_device(device).outcome == "refused"


def test_names_of_devices_with_the_providers_of_the_engine() -> None:
    reading = read_accelerators(["gpu"], ["CUDAExecutionProvider"])
    assert reading.providers == ("cuda",)
    assert outcomes(reading) == {"accelerators.0": "mapped", "execution_providers.0": "mapped"}


def test_an_object_with_its_own_providers() -> None:
    reading = read_accelerators(
        [{"device": "gpu", "execution_providers": ["DmlExecutionProvider"], "memory": "4GB"}]
    )
    assert reading.providers == ("dml",)
    assert outcomes(reading) == {
        "accelerators.0.device": "mapped",
        "accelerators.0.execution_providers.0": "mapped",
        "accelerators.0.memory": "ignored",
    }


def test_several_providers_are_several_results() -> None:
    both = ["CPUExecutionProvider", "CUDAExecutionProvider"]
    assert read_accelerators(["cpu", "gpu"], both).providers == ("cpu", "cuda")
    objects = [
        {"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]},
        {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]},
    ]
    assert read_accelerators(objects).providers == ("cuda", "cpu")


def test_a_gpu_on_which_the_processor_is_to_run() -> None:
    reading = read_accelerators(
        [{"device": "gpu", "execution_providers": ["CPUExecutionProvider"]}]
    )
    assert reading.providers == ("cpu",)
    assert reading.words[0].outcome == "differs"


@pytest.mark.parametrize(
    ("accelerators", "engine"),
    [
        (["cpu"], ["CUDAExecutionProvider"]),
        ([{"device": "cpu", "execution_providers": ["DmlExecutionProvider"]}], []),
        ([{"device": "CPU"}], ["WebGpuExecutionProvider"]),
    ],
)
def test_a_processor_has_no_provider_of_gpus(accelerators: object, engine: object) -> None:
    reading = read_accelerators(accelerators, engine)
    assert [w.because for w in reading.refused if "needs a GPU, and the device is cpu" in w.because]
    assert reading.providers == ()


def test_providers_of_the_engine_beside_accelerators_with_their_own() -> None:
    objects = [{"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}]
    same = read_accelerators(objects, ["CUDAExecutionProvider"])
    assert same.words[-1].outcome == "mapped"
    other = read_accelerators(objects, ["DmlExecutionProvider"])
    assert (other.words[-1].outcome, other.providers) == ("ignored", ("cuda",))


def test_an_npu_is_refused_with_the_provider_named() -> None:
    reading = read_accelerators(
        [{"device": "npu", "execution_providers": ["QNNExecutionProvider"]}]
    )
    assert len(reading.refused) == 2
    assert reading.providers == ()


def test_a_library_that_brings_a_provider_is_not_loaded() -> None:
    reading = read_accelerators(
        [{"device": "gpu", "execution_providers": [["CUDAExecutionProvider", "./ep.so"]]}]
    )
    assert reading.providers == ("cuda",)
    assert outcomes(reading)["accelerators.0.execution_providers.0.1"] == "ignored"


def test_no_accelerators_ask_for_nothing() -> None:
    assert read_accelerators() == Reading(providers=(), words=())
    empty: list[object] = [None, []]
    for nothing in empty:
        reading = read_accelerators(nothing)
        assert (reading.providers, outcomes(reading)) == ((), {"accelerators": "ignored"})


def test_unknown_fields_and_shapes_are_refused() -> None:
    reading = read_accelerators([{"device": "gpu", "providers": ["CUDAExecutionProvider"]}, 3])
    assert [word.path for word in reading.refused] == [
        ("accelerators", 0, "providers"),
        ("accelerators", 1),
    ]


def test_the_tables_do_not_contradict_each_other() -> None:
    assert not EXECUTION_PROVIDERS.keys() & REFUSED.keys()
    assert set(EXECUTION_PROVIDERS.values()) == set(PRECISIONS)


def leaves(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


WORDS = st.one_of(
    st.sampled_from(["gpu", "cpu", "npu", "CUDAExecutionProvider", "QNN", "x", "dml"]),
    st.none(),
    st.integers(),
    st.booleans(),
)
PROVIDERS = st.one_of(st.lists(st.one_of(WORDS, st.lists(WORDS))), WORDS)
OBJECTS = st.dictionaries(
    st.sampled_from(["device", "execution_providers", "memory", "typo"]), WORDS
) | st.fixed_dictionaries({"device": WORDS, "execution_providers": PROVIDERS})
ACCELERATORS = st.one_of(st.lists(st.one_of(WORDS, OBJECTS)), OBJECTS, WORDS)


@given(ACCELERATORS, PROVIDERS)
def test_every_leaf_is_a_word_exactly_once(accelerators: object, engine: object) -> None:
    words: tuple[Word, ...] = read_accelerators(accelerators, engine).words
    expected = [
        *leaves(accelerators, ("accelerators",)),
        *leaves(engine, ("execution_providers",)),
    ]
    assert sorted(map(str, (w.path for w in words))) == sorted(map(str, expected))


def test_placeholders_stay_open() -> None:
    ep, device = Placeholder("ep"), Placeholder("device")
    reading = read_accelerators([{"device": device, "execution_providers": [ep]}])
    assert (reading.providers, reading.refused) == ((ep,), ())
    assert read_accelerators([{"device": device}]).providers == (device,)
    reading = read_accelerators([{"device": device, "execution_providers": ["cuda"]}])
    assert (reading.providers, reading.refused) == (("cuda",), ())
    reading = read_accelerators(["cpu"], [ep])
    assert (reading.providers, reading.refused) == ((ep,), ())
