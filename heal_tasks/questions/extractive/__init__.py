"""Questions made from a chunk's own sentences, without a language model."""
