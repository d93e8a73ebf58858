"""Scaffolding of `olivebuild init`: a recipe that builds as it is, and the files beside it."""
