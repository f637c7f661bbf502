"""Reading of sources: which files are read, what becomes of them, and what they gave."""
