"""One file per data set that the lab can read from the user's disk."""
