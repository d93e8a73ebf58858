"""Importers of other tools' configurations, which they read as text and write as recipes."""
