"""A saved model at work: scores for any clip, for a split, over a long video, and the way out to ONNX."""
