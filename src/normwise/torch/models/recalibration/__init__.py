"""Running statistics from data: estimated again, moved towards shifted data, or followed as data drift."""
