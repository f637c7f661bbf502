"""An OpenAI-compatible endpoint: bounded replies, errors in every shape, rate limits, and the cost of each attempt."""
