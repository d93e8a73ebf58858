"""Sources that lie elsewhere, a module for each kind: `pin`, `fetch`, and of some `look`."""
