"""Write manifests from data sets on disk and from the drawn demo data; one file per data set."""
