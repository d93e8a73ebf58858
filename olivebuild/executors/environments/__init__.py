"""Environments elsewhere: a Python with this olivebuild, and a lock file's libraries."""
