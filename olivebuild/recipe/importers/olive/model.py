"""`input_model` of all generations -> a target of the kind `model`, and an adapter that it has."""

from __future__ import annotations

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.draft import DraftTarget, Ref
from olivebuild.recipe.importers.olive.resources import Source, resource
from olivebuild.recipe.importers.olive.section import Section, config_of
from olivebuild.recipe.importers.olive.table import claim_empty
from olivebuild.recipe.importers.olive.workflow import State, Workflow
from olivebuild.recipe.importers.positions import Placeholder

HUGGING_FACE = ("pytorchmodel", "hfmodel", "optimummodel")
OTHER_TYPES = {
    "onnxmodel": "passes begin with an ONNX model here only as a finished folder",
    "compositemodel": "models in several graphs are built whole here",
    "distributedonnxmodel": "models in several graphs are built whole here",
    "distributedhfmodel": "models in several parts are read whole here",
    "diffusersmodel": "only causal language models are built here",
    "tensorflowmodel": "only models of PyTorch in Hugging Face's format are built here",
    "openvinomodel": "OpenVINO is no target here",
    "snpemodel": "QNN is no target here",
    "qnnmodel": "QNN is no target here",
}
CAUSAL_TASKS = (None, "text-generation", "text-generation-with-past", "causal-lm")
NO_EFFECT = {
    "io_config": "the model builder knows the graph's inputs and outputs",
    "dummy_inputs_func": "the model builder needs no example inputs",
    "model_script": "what it is for is built in here, and it is not run",
    "script_dir": "nothing in it is imported",
    "model_attributes": "it is free text",
    "framework": "models are read in Hugging Face's format",
    "generative": "benchmarks generate where they judge what a model writes",
    "model_components": "the model builder writes one graph",
    "name": "targets have names of their own",
    "version": "sources are pinned in olivebuild.lock",
    "mlflow_transformer_model_cache_dir": "sources are fetched to the cache",
    "test_model_path": "conversions are tried on a miniature of the model anyway",
    "test_model_config": "conversions are tried on a miniature of the model anyway",
    "aml_storage_name": "it is no field of any release since 0.2",
    "model_storage_kind": "it is no field of any release since 0.2",
}
KNOWN = (
    "model_path",
    "hf_config",
    "task",
    "load_kwargs",
    "adapter_path",
    "model_loader",
    "model_file_format",
    *NO_EFFECT,
)
LOADING = {
    "device_map": "tensors are placed by what the machine has",
    "max_memory": "tensors are placed by what the machine has",
    "attn_implementation": "every implementation of attention is the same function",
    "_attn_implementation": "every implementation of attention is the same function",
    "low_cpu_mem_usage": "weights are read as a stream",
    "use_safetensors": "weights are read from safetensors",
    "use_cache": "it changes no weight",
    "cache_dir": "sources are fetched to the cache",
    "token": "tokens come from the environment or a login",
    "use_auth_token": "tokens come from the environment or a login",
    "local_files_only": "a build asks the network for what olivebuild.lock pins and is not here",
    "force_download": "sources are pinned in olivebuild.lock",
    "offload_folder": "tensors are placed by what the machine has",
    "output_attentions": "it changes no weight",
    "output_hidden_states": "it changes no weight",
}
UNTRUSTED = (
    "an import grants no trust: the architecture must be one that transformers has, which the plan "
    "looks at"
)


def map_model(workflow: Workflow) -> State:
    """Write the target `base`, and `input-adapter` where the file brings one; claim all leaves."""
    target = workflow.draft.target("base", "model")
    section = workflow.root.section("input_model")
    if section is None:
        target.set("source", Placeholder("the model"), note="the file has no input_model")
        return State(model=target.name)
    kind = section.get("type", str)
    options = config_of(section)
    claim_empty(section)
    if isinstance(kind, str) and not _is_readable(section, kind):
        target.set("source", Placeholder("a model in Hugging Face's format"), section.at("type"))
        section.ledger.no_effect(section.path, "it belongs to a model that is refused")
        return State(model=target.name)
    if kind is not None:
        section.mapped("type", f"{target.name}.kind")
    _source(workflow, options, target)
    _rest(workflow, options)
    if options is not section:
        section.unknown(("type", "config"))
    adapter = _adapter(workflow, options, target)
    return State(model=target.name, adapter=adapter)


def _is_readable(section: Section, kind: str) -> bool:
    """Return whether models of a type can be read; refuse the type else."""
    name = kind.lower().removesuffix("handler")
    if name in HUGGING_FACE:
        return True
    if name in OTHER_TYPES:
        section.refused(
            "type", f"{kind}: {OTHER_TYPES[name]}", "name the model that it was made of"
        )
    else:
        types = ("HfModel", "PyTorchModel", "OptimumModel", "ONNXModel")
        section.refused("type", f"{kind} is no type of model", did_you_mean(kind, types))
    return False


def _source(workflow: Workflow, options: Section, target: DraftTarget) -> None:
    """Write the source: `model_path`, else `hf_config.model_name`."""
    field = f"{target.name}.source"
    hf_config = options.section("hf_config")
    name_key = hf_config is not None and "model_name" in hf_config
    source: Source | None = None
    if options.value.get("model_path") is not None:
        source = resource(workflow, options, "model_path", field)
        target.set("source", source or Placeholder("model_path"), options.at("model_path"))
        if name_key:
            assert hf_config is not None
            hf_config.no_effect("model_name", "the model's own folder has its tokenizer")
    elif name_key:
        assert hf_config is not None
        source = resource(workflow, hf_config, "model_name", field)
        target.set("source", source or Placeholder("model_name"), hf_config.at("model_name"))
    else:
        options.ledger.refused(
            options.path, "neither model_path nor hf_config.model_name", "name the model"
        )
        target.set("source", Placeholder("model_path"))
    if isinstance(source, str) and source.startswith("hf:"):
        _revision(options, hf_config, target, source)


def _revision(
    options: Section, hf_config: Section | None, target: DraftTarget, source: str
) -> None:
    """Write the `revision` of the loading arguments behind the model's id."""
    for section in _loading(options, hf_config):
        revision = section.get("revision", str)
        if isinstance(revision, str):
            target.set("source", f"{source}@{revision}", section.at("revision"))
            section.mapped("revision", f"{target.name}.source")


def _loading(options: Section, hf_config: Section | None) -> list[Section]:
    """Return the sections of arguments of from_pretrained, `extra_args` included."""
    names = ("model_loading_args", "from_pretrained_args")
    sections = [hf_config.section(name) for name in names] if hf_config else []
    sections.append(options.section("load_kwargs"))
    there = [section for section in sections if section is not None]
    extra = [section.section("extra_args") for section in there]
    return [*there, *(section for section in extra if section is not None)]


def _rest(workflow: Workflow, options: Section) -> None:
    """Claim all options but the source and the adapter."""
    hf_config = options.section("hf_config")
    for section in _loading(options, hf_config):
        _loading_rest(workflow, section)
    if hf_config is not None:
        _hf_config_rest(workflow, hf_config)
    if "model_loader" in options and options.value["model_loader"] is not None:
        options.refused(
            "model_loader",
            "a function that loads the model would be run",
            "save the model as a Hugging Face folder, and name that",
        )
    _file_format(options)
    _task(workflow, options)
    for key, why in NO_EFFECT.items():
        if key in options:
            options.no_effect(key, why)
    if options.section("hf_config") is not None and workflow.generation.since(0, 7):
        options.meant_else("hf_config", "0.7.0 and later have no hf_config")
    if options.value.get("load_kwargs", ...) is None:
        options.no_effect("load_kwargs", "null: no arguments")
    options.unknown((*KNOWN, "type", "config"))


def _hf_config_rest(workflow: Workflow, section: Section) -> None:
    _task(workflow, section)
    name = section.get("model_class", str)
    if isinstance(name, str):
        if name.endswith(("ForCausalLM", "LMHeadModel")) or name == "AutoModel":
            section.no_effect("model_class", "the model's own configuration names its class")
        else:
            section.refused(
                "model_class", f"{name}: only causal language models are built here", "take it out"
            )
    if "feature" in section:
        section.no_effect("feature", "the model builder exports a causal language model")
    if "use_ort_implementation" in section:
        section.no_effect("use_ort_implementation", "training runs in PyTorch alone")
    if "components" in section:
        section.refused(
            "components", "models are built whole here, not in components", "take it out"
        )
    if "dataset" in section:
        section.no_effect("dataset", "no pass trains on it")
    section.unknown(("model_name", "task", "model_class", "feature", "components", "dataset"))


def _task(workflow: Workflow, section: Section) -> None:
    """Claim the task; one that is not text generation is refused, or ignored by the builder."""
    task = section.get("task", str)
    if "task" not in section:
        return
    if task in CAUSAL_TASKS or isinstance(task, Placeholder):
        section.no_effect("task", "every model here is a causal language model")
    elif _has_builder(workflow):
        section.meant_else("task", "ModelBuilder builds a causal language model whatever it says")
    else:
        section.refused(
            "task", f"{task}: only causal language models are built here", "take this model out"
        )


def _has_builder(workflow: Workflow) -> bool:
    passes = workflow.root.value.get("passes")
    entries = passes.values() if isinstance(passes, dict) else ()
    return any(
        isinstance(p, dict) and str(p.get("type")).lower() == "modelbuilder" for p in entries
    )


def _file_format(options: Section) -> None:
    value = options.get("model_file_format", str)
    if "model_file_format" not in options:
        return
    if value is None or isinstance(value, Placeholder) or "mlflow" in value.lower():
        options.no_effect("model_file_format", "a folder tells itself what it is")
    elif value.lower() in ("pytorch.entiremodel", "pytorch.statedict"):
        options.no_effect("model_file_format", "weights are read in Hugging Face's format")
    else:
        options.refused(
            "model_file_format",
            f"{value} can't be read here",
            "save the model as a Hugging Face folder",
        )


def _loading_rest(workflow: Workflow, section: Section) -> None:
    """Claim arguments of from_pretrained."""
    if section.path[-1] == "model_loading_args" and workflow.generation.since(0, 5):
        section.ledger.meant_else(
            section.path, "0.5.0 and later do not read model_loading_args; without effect here, too"
        )
        return
    if "trust_remote_code" in section:
        section.no_effect("trust_remote_code", UNTRUSTED)
    for key in ("torch_dtype", "dtype"):
        if key in section:
            section.no_effect(key, "a merged model keeps the number format of its base")
    for key in ("quantization_method", "quantization_config", "load_in_4bit", "load_in_8bit"):
        if section.value.get(key) not in (None, False):
            section.refused(
                key,
                "the base is read in full precision here",
                "take it out; QLoRA's own options say how the base is quantised in training",
            )
        elif key in section:
            section.no_effect(key, "it is what holds here anyway")
    for key, why in LOADING.items():
        if key in section:
            section.no_effect(key, why)
    _overrides(section, (*LOADING, "trust_remote_code", "torch_dtype", "revision", "extra_args"))


def _overrides(section: Section, known: tuple[str, ...]) -> None:
    """Refuse arguments that from_pretrained hands on to the model's own configuration."""
    for key in section.value:
        if section.ledger.unclaimed(section.at(key)):
            hint = did_you_mean(key, known)
            section.refused(
                key,
                f"{key} would change the model's own config.json, which counts here",
                hint if hint.startswith("did you mean") else "write it into that file",
            )
    section.unknown(known)


def _adapter(workflow: Workflow, options: Section, base: DraftTarget) -> str:
    """Return the target of `adapter_path`; "" without one."""
    if options.value.get("adapter_path") is None:
        if "adapter_path" in options:
            options.no_effect("adapter_path", "null: no adapter")
        return ""
    target = workflow.draft.target("input-adapter", "adapter")
    source = resource(workflow, options, "adapter_path", f"{target.name}.source")
    target.set("source", source or Placeholder("adapter_path"), options.at("adapter_path"))
    target.set("model", Ref(target=base.name))
    return target.name
