"""Conda files: each entry is in one list, and conda takes the environment that is written."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from olivebuild.core.errors import RecipeError
from olivebuild.recipe.importers.conda import Conda, read_conda
from olivebuild.recipe.importers.conda_lines import Line

LIKE_A_TUTORIAL = """\
name: finetune
channels:
  - defaults
dependencies:
  - python=3.8.10
  - pip=22.1
  - pip:
      - einops
      - accelerate
      - azure-identity
      - azure-keyvault-secrets
      - torch>=2.1
      - git+https://github.com/microsoft/Olive@someone/gone#egg=olive-ai[gpu]
      - --extra-index-url https://aiinfra.pkgs.visualstudio.com/Feed/pypi/simple/
      - ort-nightly-gpu==1.17.0.dev20240101001
      - onnxruntime-genai-cuda
"""


def read(folder: Path, text: str, *, trust_index: bool = False, provider: str = "cpu") -> Conda:
    file = folder / "conda.yaml"
    file.write_text(text, "utf-8")
    return read_conda(file, shown="conda.yaml", trust_index=trust_index, provider=provider)


def of_pip(folder: Path, *entries: str, trust_index: bool = False) -> Line:
    """Return the last line of a conda file whose list of pip has these entries."""
    listed = "".join(f"      - {entry}\n" for entry in entries)
    text = f"dependencies:\n  - python=3.12\n  - pip:\n{listed}"
    return read(folder, text, trust_index=trust_index).lines[-1]


def of_conda(folder: Path, entry: str) -> Line:
    return read(folder, f"dependencies:\n  - {entry}\n").lines[-1]


def environment(conda: Conda) -> dict[str, Any]:
    loaded = yaml.safe_load(conda.environment)
    assert isinstance(loaded, dict)
    return loaded


def requirements_in(conda: Conda) -> list[str]:
    pip = environment(conda)["dependencies"][-1]
    assert isinstance(pip, dict)
    return list(pip["pip"])


def test_a_tutorials_file(tmp_path: Path) -> None:
    conda = read(tmp_path, LIKE_A_TUTORIAL)
    assert {line.text.partition("=")[0]: line.outcome for line in conda.lines} == {
        "finetune": "mapped",
        "defaults": "mapped",
        "python": "differs",
        "pip": "differs",
        "einops": "ignored",
        "accelerate": "ignored",
        "azure-identity": "mapped",
        "azure-keyvault-secrets": "ignored",
        "torch>": "mapped",
        "git+https://github.com/microsoft/Olive@someone/gone#egg": "mapped",
        "--extra-index-url https://aiinfra.pkgs.visualstudio.com/Feed/pypi/simple/": "ignored",
        "ort-nightly-gpu": "differs",
        "onnxruntime-genai-cuda": "mapped",
    }
    assert [line.line for line in conda.lines] == [1, 3, 5, 6, *range(8, 17)]
    assert conda.extras == ("azure", "cuda")
    written = environment(conda)
    assert written["name"] == "finetune"
    assert written["dependencies"][:2] == ["python=3.11", "pip"]
    (requirement,) = requirements_in(conda)
    assert requirement.startswith("olivebuild[azure,cuda]")


def test_the_reason_stands_with_everything_that_is_not_taken_over(tmp_path: Path) -> None:
    conda = read(tmp_path, LIKE_A_TUTORIAL)
    assert [line for line in conda.lines if line.outcome != "mapped" and not line.because] == []
    for line in conda.lines:
        if line.outcome == "ignored":
            assert f"(conda.yaml, line {line.line})" in conda.environment


def test_an_index_is_taken_over_with_trust_alone(tmp_path: Path) -> None:
    index = "--extra-index-url https://packages.example.org/simple"
    assert of_pip(tmp_path, index).outcome == "ignored"
    assert "--trust-index" in of_pip(tmp_path, index).because
    assert of_pip(tmp_path, index, trust_index=True).outcome == "mapped"
    text = f"channels: [conda-forge, ours]\ndependencies:\n  - pip:\n    - {index}\n"
    trusted, plain = read(tmp_path, text, trust_index=True), read(tmp_path, text)
    assert requirements_in(trusted)[0] == index
    assert environment(trusted)["channels"] == ["conda-forge", "ours"]
    assert environment(plain)["channels"] == ["conda-forge"]
    assert "packages.example.org" not in "".join(requirements_in(plain))


def test_a_password_is_neither_copied_nor_shown(tmp_path: Path) -> None:
    text = (
        "channels: ['https://me:hunter2@conda.example.org/x']\n"
        "dependencies:\n"
        "  - pip:\n"
        "    - --extra-index-url https://me:hunter2@pypi.example.org/simple\n"
        "    - git+https://hunter2@github.com/me/thing\n"
        "variables: {HF_TOKEN: hunter2, MODE: fast, PROXY: 'https://me:hunter2@proxy'}\n"
    )
    conda = read(tmp_path, text, trust_index=True)
    assert "hunter2" not in conda.environment
    assert "hunter2" not in repr(conda.lines)
    assert environment(conda)["variables"] == {"MODE": "fast"}


@pytest.mark.parametrize(
    ("entry", "outcome", "says"),
    [
        ("transformers", "mapped", ""),
        ("transformers==4.40.0", "differs", "olivebuild needs transformers>="),
        ("'transformers<5'", "differs", "transformers<5 is left out"),
        ("numpy>=1.24", "mapped", ""),
        ("olive-ai[gpu,azureml]==0.6.2", "mapped", "stands in for Olive"),
        ("olive-ai[qnn]", "differs", "qnn has nothing like it"),
        ("olive_ai", "mapped", ""),
        ("git+https://github.com/huggingface/peft.git@main", "differs", "release on PyPI"),
        ("git+https://github.com/someone/else", "refused", "not taken over"),
        ("-e .", "refused", "not taken over"),
        ("./wheels/mine-1.0-py3-none-any.whl", "refused", "not taken over"),
        ("mine @ https://example.org/mine.zip", "refused", "not taken over"),
        ("onnxruntime-openvino", "refused", "overwrite onnxruntime's files"),
        ("onnxruntime-gpu==1.17", "differs", "olivebuild needs onnxruntime-gpu>="),
        ("'pandas; python_version < \"3.9\"'", "ignored", "does not hold here"),
        ("left-pad==1", "ignored", "nothing here imports it"),
        ("--pre", "ignored", "final ones"),
        ("-c constraints.txt", "ignored", "constraints.txt"),
        ("--colour", "refused", "--colour is an option that is not known"),
        ("two words", "refused", "no requirement"),
        ("7", "refused", "7 is no package"),
        ("'torch  # the newest'", "mapped", ""),
        ("--extra-index-url https://example.org torch", "refused", "more than an address"),
    ],
)
def test_entries_of_pip(tmp_path: Path, entry: str, outcome: str, says: str) -> None:
    line = of_pip(tmp_path, entry)
    assert (line.outcome, says in line.because) == (outcome, True), line
    assert line.hint or outcome != "refused"


@pytest.mark.parametrize(
    ("entry", "outcome", "says"),
    [
        ("python", "mapped", ""),
        ("python=3.10", "differs", "Python 3.11 or newer"),
        ("pip", "mapped", ""),
        ("pip=24.0", "mapped", ""),
        ("numpy=2.1.3=py311h71ddf71_0", "mapped", "build py311h71ddf71_0 is left out"),
        ("numpy 2.1.3", "mapped", ""),
        ("numpy[version='>=2,<3']", "mapped", ""),
        ("pytorch::pytorch=2.1.0", "differs", "olivebuild needs torch>="),
        ("pytorch-cuda=12.1", "ignored", "CUDA's libraries"),
        ("cmake", "ignored", "nothing here imports it"),
        ("'scipy>=1.14|<1'", "refused", "no version that can be compared"),
        ("'=3'", "refused", "no package"),
        ("torch-<2", "refused", "no name of a package"),
        ("pytörch", "refused", "no version"),
        ("[a, b]", "refused", "no package"),
        ("{conda: [a]}", "refused", "no package"),
        ("{'sel(win)': scipy}", "mapped", "selector of mamba"),
        ("scipy  # [linux]", "mapped", "selector for a comment"),
    ],
)
def test_entries_of_conda(tmp_path: Path, entry: str, outcome: str, says: str) -> None:
    line = of_conda(tmp_path, entry)
    assert (line.outcome, says in line.because) == (outcome, True), line
    assert line.hint or outcome != "refused"


@pytest.mark.parametrize(
    ("version", "written"),
    [
        ("", "3.11"),
        ("=3.12", "3.12"),
        ("=3.12.4", "3.12.4"),
        ("==3.11.9", "3.11.9"),
        (">=3.8", "3.11"),
        (">=3.12,<3.13", "3.12"),
        ("=3.8.13", "3.11"),
        ("<3.11", "3.11"),
        ("=2.7", "3.11"),
        ("=3.11.*", "3.11"),
    ],
)
def test_the_python_that_is_written(tmp_path: Path, version: str, written: str) -> None:
    conda = read(tmp_path, f"dependencies:\n  - 'python{version}'\n")
    assert environment(conda)["dependencies"][0] == f"python={written}"


def test_conditions_are_those_of_the_new_python(tmp_path: Path) -> None:
    text = "dependencies:\n  - pip: ['torch; python_version >= \"3.11\"']\n  - python=3.8\n"
    assert read(tmp_path, text).lines[0].outcome == "mapped"


def test_the_olivebuild_that_is_installed_is_the_one_at_hand(tmp_path: Path) -> None:
    (requirement,) = requirements_in(read(tmp_path, "dependencies: [python]\n"))
    parsed = Requirement(requirement)
    root = Path(__file__).parents[3]
    assert parsed.extras == {"cpu"}
    assert parsed.url == root.as_uri()


def test_pins_that_olivebuild_allows_are_kept(tmp_path: Path) -> None:
    text = "dependencies:\n  - pip: [transformers==5.21.0, 'numpy>=2,<3', torch>=2]\n"
    assert requirements_in(read(tmp_path, text))[1:] == ["transformers==5.21.0", "numpy<3,>=2"]


def test_one_onnxruntime_stays(tmp_path: Path) -> None:
    text = "dependencies:\n  - pip: [onnxruntime, onnxruntime-gpu, onnxruntime-directml]\n"
    conda = read(tmp_path, text)
    assert [line.outcome for line in conda.lines] == ["differs", "mapped", "differs"]
    assert conda.extras == ("cuda",)
    nothing = read(tmp_path, "dependencies: [python]\n", provider="dml")
    assert nothing.extras == ("directml",)


def test_a_file_of_requirements(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "requirements.txt").write_text(
        "# what we need\ntorch>=2  # at least\n\neinops \\\n  ==0.7\n-r more/other.txt\n"
        "-r requirements.txt\n"
    )
    (tmp_path / "more/other.txt").write_text("peft\n")
    conda = read(tmp_path, "dependencies:\n  - pip:\n    - -r requirements.txt\n")
    assert [(line.file, line.line, line.text, line.outcome) for line in conda.lines] == [
        ("conda.yaml", 3, "-r requirements.txt", "mapped"),
        ("requirements.txt", 2, "torch>=2", "mapped"),
        ("requirements.txt", 4, "einops   ==0.7", "ignored"),
        ("requirements.txt", 6, "-r more/other.txt", "mapped"),
        ("more/other.txt", 1, "peft", "mapped"),
        ("requirements.txt", 7, "-r requirements.txt", "refused"),
    ]


@pytest.mark.parametrize("name", ["gone.txt", "../outside.txt", "/etc/hostname", "", "http://a/b"])
def test_files_of_requirements_that_are_not_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "outside.txt").write_text("secret-thing\n")
    conda = read(folder, f"dependencies:\n  - pip:\n    - -r {name}\n")
    assert [line.outcome for line in conda.lines] == ["refused"]
    assert "secret-thing" not in repr(conda)


def test_other_fields(tmp_path: Path) -> None:
    text = (
        "name: bad name\nprefix: /home/me/envs/x\nplatforms: [linux-64, win-64]\n"
        "dependencies: []\nchannels:\n"
        "variables: {LD_PRELOAD: ./x.so, PIP_EXTRA_INDEX_URL: 'http:'}\n"
    )
    conda = read(tmp_path, text)
    assert {".".join(map(str, line.path)): line.outcome for line in conda.lines} == {
        "name": "differs",
        "prefix": "ignored",
        "platforms.0": "ignored",
        "platforms.1": "ignored",
        "dependencies": "ignored",
        "channels": "ignored",
        "variables.LD_PRELOAD": "ignored",
        "variables.PIP_EXTRA_INDEX_URL": "ignored",
    }
    assert environment(conda)["name"] == "olivebuild"
    assert "variables" not in environment(conda)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("dependencies:\n  - a\n - b\n", 3, "not valid YAML"),
        ("dependencies:\n\t- a\n", 2, "not valid YAML"),
        ("name: a\nname: b\n", 2, "name"),
        ("- a\n", 1, "mapping"),
        ("", 1, "mapping"),
        ("name: x\ndependencies: torch\n", 2, "list of packages"),
        ("channels: conda-forge\n", 1, "list of names"),
        ("variables: [A]\n", 1, "mapping of names"),
        ("dependencies: [!!python/object/apply:os.system ['true']]\n", 1, "tag"),
    ],
)
def test_what_is_no_conda_file_is_one_error_with_its_line(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text)
    assert caught.value.where
    assert (caught.value.where.file, caught.value.where.line) == ("conda.yaml", line)
    assert says in caught.value.fact
    assert caught.value.hint


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "conda.yaml"
    for content, says in ((b"\xff\xfe\x00", "UTF-8"), (b"#" * (2 << 20), "bytes")):
        file.write_bytes(content)
        with pytest.raises(RecipeError, match=says):
            read_conda(file, shown="conda.yaml")


def leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


TEXTS = st.one_of(
    st.sampled_from(
        [
            *("python=3.8", "torch>=2", "numpy=1.2=b_0", "-r x.txt", "-i http://a", "a b", "a|b"),
            *("git+https://x/y@z", "x; extra == 'y'", "x[a", "==", "=", "::", "pip", "[", "#", "-"),
        ]
    ),
    st.text(string.printable, max_size=12),
)
VALUES = st.one_of(TEXTS, st.none(), st.integers(), st.booleans(), st.floats(allow_nan=False))
PIP = st.dictionaries(
    st.sampled_from(["pip", "sel(win)", "x"]), st.one_of(VALUES, st.lists(VALUES))
)
FILES = st.fixed_dictionaries(
    {"dependencies": st.lists(st.one_of(VALUES, PIP, st.lists(VALUES)))},
    optional={
        "name": VALUES,
        "channels": st.lists(VALUES),
        "variables": st.dictionaries(st.sampled_from(["A", "B_KEY", "PATH"]), VALUES),
        "prefix": VALUES,
        "more": st.recursive(VALUES, lambda inner: st.lists(inner), max_leaves=4),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(FILES)
def test_every_entry_of_any_file_has_one_line(tmp_path: Path, value: dict[str, object]) -> None:
    conda = read(tmp_path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    assert [*map(str, (line.path for line in conda.lines))] == [*map(str, leaves(value))]
    written = environment(conda)
    assert all(isinstance(entry, str | dict) for entry in written["dependencies"])
    assert all(isinstance(entry, str) for entry in requirements_in(conda))
