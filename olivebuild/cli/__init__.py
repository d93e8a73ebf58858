"""The commands, and where errors become messages and exit codes."""
