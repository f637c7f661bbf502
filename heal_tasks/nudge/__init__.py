"""NUDGE: moves stored vectors towards the questions that they answer; chooses theta, and the route of a run."""
