"""The report of a run for people: summary, pictures, page."""
