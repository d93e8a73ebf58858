"""Rows as token ids, and the ends of answers."""
