"""Models: fetched, opened, looked at, loaded and saved."""
