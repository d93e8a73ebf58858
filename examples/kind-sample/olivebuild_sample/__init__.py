"""The kind `sample` for olivebuild."""
