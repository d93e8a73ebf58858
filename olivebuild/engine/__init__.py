"""Execution: the build loop, its order and what it records; decides nothing that a plan has not."""
