"""Running statistics from data: set anew, moved towards shifted data, or followed as data drift."""
