"""Sources of documents (folders, S3, Python reference documentation), their parsing and chunking."""
