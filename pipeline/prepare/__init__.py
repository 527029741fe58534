"""What people have on disk, and the drawn demo data, turned into manifests. One file a data set."""
