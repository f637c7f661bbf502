"""One file per pipeline step: where algorithms meet storage."""
