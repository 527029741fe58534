"""Fit heads on cached features."""
