"""Importers: other tools' configurations -> recipes. They read text and write text."""
