"""A fuzzer of what strangers bring: models, adapters, ONNX folders, GGUF files, wheels, hub
snapshots, data, caches, recipes.

`python -m tests.fuzzer --minutes 60` spoils a workspace in small ways, runs a verb in it, and
looks: nothing outside has changed, no code of the
workspace has run, the command ended in time with a documented exit code, without a traceback and
without steering the terminal.
"""
