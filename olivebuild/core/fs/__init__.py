"""Files and folders: opened without waiting, deleted and swapped without following links."""
