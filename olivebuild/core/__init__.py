"""Ground floor: errors, text, hashing, journals, processes, the host. Knows nothing of builds."""
