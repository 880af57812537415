"""One file for each check, named after the bad thing that it finds."""
