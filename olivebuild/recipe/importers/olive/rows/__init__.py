"""Mappers of data configurations: files, texts of rows, token sequences."""
