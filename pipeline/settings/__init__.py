"""Settings of each command: one class a file, so that a stage depends on its own alone."""
