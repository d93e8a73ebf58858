"""Parts of what kinds declare: fields with rules of their own, and what a command line names."""
