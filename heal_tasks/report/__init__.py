"""What a person sees of a run: summary, pictures, templates."""
