"""Extract features of clips into a feature store, block by block, in this process or on Dask."""
