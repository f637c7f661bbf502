"""Parts of the steps that measure retrieval quality."""
