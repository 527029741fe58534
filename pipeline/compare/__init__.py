"""Compare results: tables, significance tests, plots, a report and the metric gate."""
