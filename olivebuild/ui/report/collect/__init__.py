"""Projects, traces and histories to the records of a report."""
