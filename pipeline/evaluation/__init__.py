"""What judges a model: metrics of scores, intervals of an accuracy, tests of a difference."""
