"""Declarations of the kinds: fields, inputs, versions, runners. They run nothing."""
