"""Launchers of sites."""
