"""Use a saved model: scores of clips, of a split and over a long video, and export to ONNX."""
