"""Numbers for the simulator's workers, from what an engine was measured to do on a GPU."""
