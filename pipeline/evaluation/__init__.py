"""Evaluation of models: metrics, confidence intervals, significance tests, order tests and result folders."""
