"""Terminal output, the report and trackers: shows what is there, and changes nothing."""
