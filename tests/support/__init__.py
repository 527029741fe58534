"""What several test files share: data, models, results, and the stages as functions."""
