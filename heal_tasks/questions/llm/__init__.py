"""Questions, maps and answers from a language model behind an OpenAI-compatible endpoint."""
