"""Results on disk -> judgement: tables, tests, plots, a report and a gate."""
