"""Commands that ask a built model."""
