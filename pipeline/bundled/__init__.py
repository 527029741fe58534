"""Train the weights that the package contains."""
