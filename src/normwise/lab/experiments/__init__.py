"""One experiment per file; the lab finds them by listing this folder."""
