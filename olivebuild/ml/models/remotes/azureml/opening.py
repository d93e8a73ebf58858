"""Containers that models and datastores of Azure ML lie in, opened."""

from __future__ import annotations

from typing import Any

from olivebuild.api.job import Job
from olivebuild.formats.source import Source
from olivebuild.formats.urls import azureml_uri
from olivebuild.ml.models.remotes.azureml import assets, places
from olivebuild.ml.models.remotes.azureml.places import Place, Principal
from olivebuild.ml.models.remotes.azureml.rest import Client
from olivebuild.ml.models.remotes.objects import azure
from olivebuild.ml.models.remotes.objects.opened import Opened


def opened(job: Job, source: Source, *, pinned: str) -> tuple[Opened, str]:
    """Return a container, and the path in it that a source names.

    `pinned` is the pin of a model whose version is fixed, "" where a label is asked anew. Raises
    InputError, and ModuleNotFoundError where a library is missing.
    """
    named = azureml_uri.parse(source.text)
    with Client(job.where("source")) as client:
        if isinstance(named, azureml_uri.DatastorePath):
            place = places.of_datastore(client, named.workspace, named.datastore).at(named.path)
            return _opened(job, source, place, "")
        version = azureml_uri.parse(pinned.partition(", ")[0]) if pinned else named
        assert isinstance(version, azureml_uri.Model)
        asset = assets.find(client, version)
        place = assets.place_of(client, version, asset)
    return _opened(job, source, place, asset.id)


def _opened(job: Job, source: Source, place: Place, identity: str) -> tuple[Opened, str]:
    store, signed = azure.open_container(
        place.account,
        place.container,
        endpoint=place.endpoint,
        account_key=place.account_key,
        sas=place.sas,
        credential=_credential(place.principal) if place.principal else None,
    )
    here = Opened(
        store=store,
        scheme="az",
        text=source.text,
        where=job.where("source"),
        signed=signed,
        target=job.action.target,
        identity=identity,
    )
    return here, place.path


def _credential(principal: Principal) -> Any:
    from azure.identity import ClientSecretCredential

    return ClientSecretCredential(
        principal.tenant, principal.client, principal.secret, authority=principal.authority
    )
