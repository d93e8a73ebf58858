"""Commands about models that leave the project."""
