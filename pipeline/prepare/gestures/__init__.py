"""The demo data set: drawn hand gestures."""
