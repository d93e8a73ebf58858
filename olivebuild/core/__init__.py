"""Errors, text, hashing, journals, processes and the host, without knowledge of builds."""
