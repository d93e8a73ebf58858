"""Rows of data files, read, checked, templated and split, without knowledge of tokens or models."""
