"""NUDGE: the stored vectors moved by questions, the search for the budget, and the route."""
