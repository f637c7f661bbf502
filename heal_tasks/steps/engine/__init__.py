"""What runs the steps: runner, catalogue, the road."""
