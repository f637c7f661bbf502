"""Query vectors and search for applications."""
