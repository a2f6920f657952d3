"""`laud bench engine` for bundles that find objects."""
