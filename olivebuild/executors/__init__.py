"""Places where actions run: worker processes, and the process that holds a model for chat."""
