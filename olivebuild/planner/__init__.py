"""Analysis of inputs to keys to verdicts: looks at the disk, and starts nothing."""
