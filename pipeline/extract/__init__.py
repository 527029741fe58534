"""Clips -> feature store: blocks of clips, one worker code, in this process or on Dask."""
