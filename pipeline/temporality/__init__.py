"""Temporality of a data set: which classes need the order of frames, measured on cached features."""
