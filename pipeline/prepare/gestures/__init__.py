"""Demo data set of drawn hand gestures."""
