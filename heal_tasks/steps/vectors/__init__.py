"""Parts of the steps that read and write vectors."""
