"""Settings of each command: one class per file, so that a stage only depends on its own settings."""
