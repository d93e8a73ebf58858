"""olivebuild: incremental builds of fine-tuned language models, with a content-hashed cache."""

__version__ = "0.1.0"
