"""olivebuild: incremental builds of fine-tuned language models, with a content-hashed cache.

`import olivebuild as ob; ob.open("recipes/tone").build("onnx-int4")`: docs/guides/python.md. The
types of what is imported here when it is first used are in __init__.pyi.
"""

__version__ = "0.1.0"
_HOMES = {
    "BuildError": "core.errors",
    "Event": "api.event",
    "Plan": "library.results",
    "PlannedTarget": "library.results",
    "Project": "library.project",
    "Report": "library.results",
    "Result": "library.results",
    "Target": "library.results",
    "open": "library.project",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    """Import what the Python API has under a name, when it is first used.

    A build of which nothing has changed imports this package, and none of that.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
