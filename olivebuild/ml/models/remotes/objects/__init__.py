"""Object stores: opened with the providers' credentials, listed, pinned and downloaded."""
