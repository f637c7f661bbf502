"""The engine of the pipeline: the runner of a step, the road, the dry run."""
