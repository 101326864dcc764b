"""Hold two runs against each other: `compare` them, and `diagnose` why they differ."""
