"""Azure ML: models of registries and workspaces, and where the data of datastores lies."""
