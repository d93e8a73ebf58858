"""Fields of Olive's systems and Azure ML clients, and the fields of executors that they become."""

from __future__ import annotations

CLIENT = {
    "subscription_id": "subscription",
    "resource_group": "resource_group",
    "workspace_name": "workspace",
    "aml_config_path": "workspace_file",
    "keyvault_name": "keyvault",
}
"""A field of an Azure ML client -> the executor's."""
CLIENT_IDLE = {
    "read_timeout": "how long requests wait is the client library's own choice",
    "max_operation_retries": "requests are tried again as the client library does",
    "operation_retry_interval": "requests are tried again as the client library does",
    "default_auth_params": "credentials come from Azure's usual chain alone",
}
FIELDS: dict[str, dict[str, str]] = {
    "local": {},
    "azureml": {
        "aml_compute": "compute",
        "instance_count": "instances",
        "resources": "properties",
        "tags": "tags",
        "datastores": "datastore",
        "hf_token": "hf_token",
        "requirements_file": "requirements",
        "aml_docker_config.base_image": "image",
        "aml_docker_config.dockerfile": "dockerfile",
        "aml_docker_config.build_context_path": "build_context",
        "aml_docker_config.conda_file_path": "conda",
        "aml_docker_config.name": "environment",
        "aml_docker_config.version": "environment_version",
        "aml_environment_config.name": "environment",
        "aml_environment_config.version": "environment_version",
        "aml_environment_config.label": "environment_label",
    }
    | {f"azureml_client_config.{name}": to for name, to in CLIENT.items()},
    "docker": {
        "hf_token": "hf_token",
        "requirements_file": "requirements",
        "image_name": "image",
        "dockerfile": "dockerfile",
        "build_context_path": "build_context",
        "work_dir": "work_dir",
        "build_args": "build_args",
        "run_params": "run_args",
        "local_docker_config.image_name": "image",
        "local_docker_config.base_image": "base_image",
        "local_docker_config.dockerfile": "dockerfile",
        "local_docker_config.build_context_path": "build_context",
        "local_docker_config.build_args": "build_args",
        "local_docker_config.run_params": "run_args",
        "local_docker_config.requirements_file_path": "requirements",
    },
    "python": {
        "hf_token": "hf_token",
        "python_environment_path": "path",
        "environment_variables": "variables",
        "prepend_to_path": "prepend_to_path",
        "requirements_file": "requirements",
    },
}
"""Kind of executor -> a field of Olive's, below its parts, and the executor's."""
PATHS = ("conda", "dockerfile", "build_context", "requirements", "path", "workspace_file")
"""Fields of an executor that are paths."""
IDLE = {
    "is_dev": "it sent a checkout of Olive itself along",
    "olive_managed_env": "the executor makes its environment as it is told",
    "clean_image": "the executor decides which images it keeps",
    "python_environment_path": "steps run in the Python that olivebuild runs in",
    "environment_variables": "the environment is that of the command",
    "prepend_to_path": "the environment is that of the command",
    "hf_token": "a login of this machine, or HF_TOKEN, is used where the hub asks for one",
} | {f"azureml_client_config.{name}": because for name, because in CLIENT_IDLE.items()}
"""Fields that change nothing here, whatever the kind, unless FIELDS has them."""
