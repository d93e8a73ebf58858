"""The report: its records, how they are collected, how they are drawn."""
