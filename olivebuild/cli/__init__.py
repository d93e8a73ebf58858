"""The commands, which know all rooms but `ml`, and where errors become messages and exit codes."""
