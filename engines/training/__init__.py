"""Training of dynamic networks; used by `laud train` alone."""
