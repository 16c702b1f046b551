"""Do it: the driver spawns workers on a plan, the worker runs them, the run folder remembers."""
