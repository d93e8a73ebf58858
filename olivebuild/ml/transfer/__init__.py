"""Transfers to and from a remote cache."""
