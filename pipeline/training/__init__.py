"""Code shared by the training of heads on cached features and of whole models on clips."""
