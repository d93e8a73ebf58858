"""Analysis: inputs to keys to verdicts. Looks at the disk, starts nothing."""
