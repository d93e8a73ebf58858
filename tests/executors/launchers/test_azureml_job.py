"""Fields of an Azure ML executor, and the job that is built from them with nobody asked."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.site import Needs
from olivebuild.core.errors import InputError
from olivebuild.executors.launchers.azureml_job import (
    IMAGE,
    Settings,
    build,
    environment,
    pack_code,
)
from tests.support.require import require

# What azure-ai-ml warns of is its own.
pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = {"subscription": "s", "resource_group": "g", "workspace": "w"}
HERE = {**NAMES, "compute": "gpu", "image": "registry.example/train:1"}


def library() -> None:
    spec = importlib.util.find_spec("azure") and importlib.util.find_spec("azure.ai")
    require("azure-ai-ml", spec and importlib.util.find_spec("azure.ai.ml"), "needs azure-ai-ml")


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"image": "x"}, "has no `subscription`"),
        ({**HERE, "color": "red"}, "no 'color'"),
        ({**HERE, "instances": "2"}, "one machine"),
        ({**HERE, "compute": "gpu; rm"}, "no name in Azure"),
        ({**HERE, "environment": "e"}, "more than one environment"),
        ({**HERE, "conda": "a", "requirements": "b"}, "a conda file and a file of requirements"),
        (NAMES, "names no environment"),
        ({"workspace_file": "/nowhere"}, "can't be read"),
    ],
)
def test_fields_that_can_not_be(options: dict[str, str], fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        Settings.of_options(options)


def test_a_workspace_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    names = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}
    file.write_text(json.dumps(names))
    options = {"workspace_file": str(file), "image": "x", "hf_token": "true", "keyvault": "k"}
    settings = Settings.of_options({**options, "resource_group": "other"})
    assert (settings.subscription, settings.resource_group, settings.workspace) == (
        "s",
        "other",
        "w",
    )
    file.write_text("[]")
    with pytest.raises(InputError, match="it is no file of a workspace"):
        Settings.of_options(options)


def built(**options: str) -> dict[str, Any]:
    """Return the job, as its file has it."""
    library()
    import yaml

    job = build(
        Settings.of_options({**HERE, **options}),
        name="adapter-1",
        words=["olivebuild.x", "az://account/container/a b", "key"],
        code=Path(__file__).parent,
        needs=Needs(seconds=3600),
    )
    text = io.StringIO()
    job.dump(text)
    return dict(yaml.safe_load(text.getvalue()))


def test_the_job_of_a_systems_block() -> None:
    properties = {"instance_type": "gpu-small", "shm_size": "8g", "AISuperComputer": {"a": 1}}
    job = built(properties=json.dumps(properties), tags='{"team": "slm", "n": 3}')
    assert job["compute"] == "azureml:gpu"
    assert job["environment"]["image"] == "registry.example/train:1"
    assert job["resources"]["instance_type"] == "gpu-small"
    assert job["resources"]["shm_size"] == "8g"
    assert job["resources"]["properties"] == {"AISuperComputer": {"a": 1}}
    assert job["tags"] == {"team": "slm", "n": "3"}
    assert job["limits"] == {"timeout": 3600}
    assert job["identity"] == {"type": "managed_identity"}
    assert job["command"].endswith("-m olivebuild.x 'az://account/container/a b' key")
    assert built(variables='{"A": "b"}')["environment_variables"] == {"A": "b"}
    assert built(identity="user")["identity"] == {"type": "user_identity"}


def test_environments(tmp_path: Path) -> None:
    library()
    file = tmp_path / "environment.yaml"
    file.write_text("dependencies: [python=3.11, pip: ['olivebuild[cpu]==0.1']]")

    def of(**options: str) -> Any:
        return environment(Settings.of_options({**NAMES, **options}))

    assert of(environment="mine", environment_version="3") == "azureml:mine:3"
    assert of(environment="mine") == "azureml:mine@latest"
    made = of(conda=str(file))
    assert made.image == IMAGE
    assert "olivebuild" not in json.dumps(made.conda_file)
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    context = of(dockerfile=str(tmp_path / "Dockerfile")).build
    assert (context.path, context.dockerfile_path) == (str(tmp_path), "Dockerfile")


def test_the_code_of_a_job_is_one_file_of_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pack_code(tmp_path / name)
    one, other = (tmp_path / name / "code.zip" for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        archive.extractall(tmp_path)
    code = "import olivebuild.executors.worker, olivebuild.ml.transfer.exchange.node as n; print(n)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path) in done.stdout
