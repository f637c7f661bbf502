"""Where documents come from: folders, S3, Python reference documentation; parsing and chunking."""
