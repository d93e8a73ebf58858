"""MLflow model folders: what is in them, and the plain folder that loaders look for."""
