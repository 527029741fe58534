"""Helpers of several test files: data, models, results, and the stages as functions."""
