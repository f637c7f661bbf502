"""Search for applications."""
