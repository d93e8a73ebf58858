"""Declarations of the kinds: fields, inputs, versions and runners, which run nothing."""
