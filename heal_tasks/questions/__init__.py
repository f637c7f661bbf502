"""Questions with answers and evidence, written from chunks by an LLM or extractively."""
