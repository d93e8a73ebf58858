"""Forms that an export's folder may have: a module for each, and the table of their names."""
