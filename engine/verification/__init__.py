"""Is the gradient right on this model and these data? One check a module, and how a failure finds its node."""
