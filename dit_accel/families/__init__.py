"""Model facts as data, one small file per model family."""
