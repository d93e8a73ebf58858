"""Values of declared types: a type that several threads use first, all at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import olivebuild

RACE = """
import sys, threading, types
import msgspec
from olivebuild.core.values import strict_json, typed
from olivebuild.metrics import json_record

TYPES = '''
from __future__ import annotations
from msgspec import Struct
class Outer(Struct):
    size: int
    names: list[str]
    inner: dict[str, Inner]
class Inner(Struct):
    name: str
    sizes: dict[str, list[int]] = {}
'''
VALUE = {"size": 1, "names": ["a"], "inner": {"b": {"name": "c", "sizes": {"d": [1]}}}}
TEXT = msgspec.json.encode(VALUE)
WAYS = {
    "decode": lambda kind: typed.decode(TEXT, kind),
    "convert": lambda kind: typed.convert(VALUE, kind),
    "strict": lambda kind: strict_json.decode(TEXT, kind),
    "record": lambda kind: json_record.decode(VALUE, kind),
    "direct": lambda kind: msgspec.json.decode(TEXT, type=kind),
}
way = WAYS[sys.argv[1]]
sys.setswitchinterval(1e-6)
made = []
for number in range(int(sys.argv[2])):
    module = types.ModuleType(f"module{number}")
    sys.modules[module.__name__] = module
    exec(TYPES, module.__dict__)
    start = threading.Barrier(8)
    def make():
        start.wait()
        made.append(way(module.Outer).inner["b"].sizes)
    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert made == [{"d": [1]}] * len(made), "not what the text says"
print(len(made))
"""


@pytest.mark.parametrize("way", ["decode", "convert", "strict", "record"])
def test_threads_use_a_type_first_all_at_once(way: str) -> None:
    """Without `typed` ("direct") the process ends by SIGSEGV within 20 rounds or so."""
    done = subprocess.run(
        [sys.executable, "-c", RACE, way, "200"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1600\n"), done.stderr


def made_directly(text: str) -> list[int]:
    """Return the lines of a module that make values of declared types by msgspec itself."""
    found, names, nodes = [], {"msgspec"}, list(ast.walk(ast.parse(text)))
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name for a in node.names if a.name.split(".")[0] == "msgspec"}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "msgspec":
            names |= {a.asname or a.name for a in node.names}
            if {a.name for a in node.names} & {"convert", "decode", "Decoder"}:
                found.append(node.lineno)
    for node in nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = ast.unparse(node.func.value).split(".")[0]
        typed = any(k.arg in ("type", None) for k in node.keywords) or len(node.args) > 1
        if owner in names and (
            node.func.attr in ("convert", "Decoder") or (node.func.attr == "decode" and typed)
        ):
            found.append(node.lineno)
    return sorted(found)


@pytest.mark.parametrize(
    "text",
    [
        "import msgspec\nmsgspec.json.decode(\n    data,\n    type=Kind,\n)",
        "import msgspec as m\nm.convert(data, Kind)",
        "from msgspec import json\njson.decode(data, type=Kind)",
        "from msgspec import (\n    Struct,\n    convert,\n)",
        "from msgspec.json import Decoder",
        "import msgspec\nmsgspec.yaml.decode(data, type=Kind)",
        "import msgspec.msgpack\nmsgspec.msgpack.Decoder(Kind)",
    ],
)
def test_a_value_that_is_made_directly_is_found(text: str) -> None:
    assert len(made_directly(text)) == 1


def test_values_are_made_in_one_place() -> None:
    package = Path(olivebuild.__file__).parent
    assert made_directly("import msgspec\nmsgspec.json.decode(data)\nmsgspec.json.encode(x)") == []
    assert [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if made_directly(path.read_text("utf-8"))
    ] == ["core/values/typed.py"]
