"""Launchers, which start the jobs of a site."""
