"""Values that spoil files: numbers, bytes, paths, templates, keys and names."""

from __future__ import annotations

import json

NUMBERS = [
    "0", "-1", "1", "2", "3", "127", "2147483648", "4294967296", "-9223372036854775808",
    "9223372036854775807", "18446744073709551615", "1e308",
    "1e999", "-0.0", "0.5", "1e-320",
]  # fmt: skip


RAW = [
    *NUMBERS, "NaN", "Infinity", "-Infinity", "null", "true", "false", '""', '"x"', "[]", "{}",
    "[null]", '[[]]', '{"":""}', '"\\ud800"', '"\\u0000"',
    '"\\u001b]0;x\\u0007"', '"\\u202eevil\\u009b2J"', '"a\\nb"', '"auto"', '"float32"',
    '"all-linear"', '"(a+)+$"', '"(.*)*x"', '"["',
    "9" * 5000, '"' + "x" * 70000 + '"', "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000,
    '["x", 1, null]', '{"a": [1e999]}',
]  # fmt: skip
"""JSON values as text, since some can't be written by a library."""


PATHS = [
    "..", ".", "/", "../secret.txt", "../../neighbour/secret.txt", "{root}/neighbour/secret.txt",
    "{root}/neighbour", "~/secret.txt", "/dev/zero",
    "/dev/stdin", "/proc/self/mem", "a/../../../neighbour", "file://{root}/neighbour", "{evil}",
    "evil.so", "evil", "modeling_evil",
    "hf:../x", "C:\\evil", "con", "x" * 300, "a\\u0000b", "\\u202e", "-rf", "--help",
    "http://127.0.0.1:9/x", "$(touch evil)", "`touch evil`",
]  # fmt: skip


TEMPLATES = [
    "{% for i in range(10**9) %}x{% endfor %}", "{{ 'x' * 10**10 }}",
    "{{ cycler.__init__.__globals__.os.system('touch evil') }}", "{{ 1/0 }}",
    "{{ [].__class__.__base__.__subclasses__() }}", "{% include '/etc/passwd' %}",
    "{{ raise_exception('\\u001b[2J') }}", "{{ strftime_now('%Y') }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ messages[99].content }}",
    "{% set x = namespace(a=1) %}{{ x.a.b.c }}", "{{", "{% if %}",
    "{{ '%s'|format('x') * 999999999 }}", "{{ messages | tojson(indent=99999999) }}",
]  # fmt: skip


KEYS: dict[str, list[str]] = {
    "auto_map": ['{"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M", '
'"AutoTokenizer": ["modeling_evil.T", null]}'],
    "custom_ops_library": ['"{evil}"', '"evil.so"', '"../evil.so"'],
    "session_options": ['{"custom_ops_library": "{evil}"}',
                        '{"enable_profiling": "{root}/neighbour/profile"}',
                        '{"log_id": "x", "provider_options": [{"evil": {"library": "{evil}"}}]}'],
    "provider_options": ['[{"VitisAI": {"config_file": "/dev/zero"}}]', '[{"evil": {}}]'],
    "quantization_config": ['{"quant_method": "gptq", "bits": 4}', '{"quant_method": "evil"}',
                            '{"quant_method": "bitsandbytes", "load_in_4bit": true}'],
    "rope_scaling": [
        '{"type": "longrope", "short_factor": [], "long_factor": [1e999]}', '{"rope_type": "evil"}',
        '{"rope_type": "dynamic", "factor": 0}',
    ],
    "tokenizer_class": ['"Evil"', '"../evil"', '"PreTrainedTokenizerFast"', '"LlamaTokenizer"'],
    "model_type": ['"evil"', '"llama"', '"bert"', '"phi3"', '"../x"'],
    "architectures": ['["Evil"]', '["BertModel"]', "[]", "null", '["../x"]'],
    "attn_implementation": ['"evil/kernel"', '"flash_attention_2"'],
    "_attn_implementation": ['"evil/kernel"'],
    "num_hidden_layers": ["2147483647", "-1", "100000", "0", "1.5"],
    "vocab_size": ["2147483647", "-5", "0", "99999999999999"],
    "hidden_size": ["2147483647", "-64", "0", "63"],
    "num_attention_heads": ["0", "-4", "3", "1000000"],
    "max_position_embeddings": ["1000000000000", "0", "-1", "1e999"],
    "peft_type": ['"LORA"', '"PREFIX_TUNING"', '"evil"', "1"],
    "target_modules": ['"(a+)+$"', '"(.*)*(.*)*x"', '["q_proj", "q_proj"]', '"["', "[]", '[""]',
                       "7"],
    "modules_to_save": ['["lm_head"]', '["../x"]', "[1]"],
    "rank_pattern": ['{"(a|aa)+$": 3}', '{"[": 1}', '{"q_proj": -1}'],
    "alpha_pattern": ['{"(a|aa)+$": 1e999}', '{"q_proj": NaN}'],
    "layers_to_transform": ["[99999999]", "-1", '"x"'],
    "layer_replication": ["[[0, 1000000]]", "[[1, 0]]"],
    "r": ["0", "-1", "100000000000", "1.5"],
    "lora_alpha": ["NaN", "1e999", "-1", '"x"'],
    "base_model_name_or_path": ['"../../neighbour"', '"{root}/neighbour"', "7", "null"],
    "weight_map": ['{"x": "../../neighbour/secret.txt"}', '{"x": "/dev/zero"}', '{"x": 7}', "[]"],
    "chat_template": [json.dumps(t) for t in TEMPLATES] + ["7",
                                                           '[{"name": "default", "template": "x"}]',
                                                           '[{"name": 1}]'],
    "added_tokens": ['[{"id": 4294967296, "content": "x", "special": true}]', '[{"id": -1}]', "7"],
    "pre_tokenizer": ['{"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", '
'"invert": '
'false}', "null", "[]"],
    "eos_token_id": ["[[1]]", "-1", "99999999", '"x"', "[]"],
    "filename": ['"../../neighbour/secret.txt"', '"{evil}"', '"/dev/zero"', '""'],
    "metrics": ["[NaN]"],
    "folder": ['"{root}/neighbour"', '"/"'],
    "files": ['[["../../neighbour/secret.txt", [1, 2, 3, 4, 5], [["0123", 0, 16]]]]', "7"],
    "sources": ['{"hf:some/model": "../../../../neighbour"}',
                '{"pypi:fuzzed==1!m.gguf": "x!../../y"}', "[]"],
}  # fmt: skip
"""Keys that mean something, with values that mean harm."""


SIZES = [
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 50,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


NAMES = [b"\xff\xfe", b"a\nb", b"\x1b[2J", b"-rf", b" ", b"...", "\u202etxt.exe".encode(),
         b"x" * 255, b"con", b"a'b\"c", b"%s{}", b"~", b"json.py",
         b"model-00001-of-00002.safetensors", b"pytorch_model.bin", b"model.safetensors.index.json",
         b"adapter_model.bin", b"tokenizer.model",
         b"sub\\..\\x", b"x.tmp", b"0" * 32, b"evil.so"]  # fmt: skip
