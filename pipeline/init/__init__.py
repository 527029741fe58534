"""`pipeline init`: a study (settings, stages, manifest, README) from a folder of clips."""
