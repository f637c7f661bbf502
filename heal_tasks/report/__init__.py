"""The report of a run: summary, pictures, page."""
