"""Parts of the steps that call a language model."""
