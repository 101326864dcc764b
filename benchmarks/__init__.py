"""One file a claim. `neuroseg bench NAME` runs them; results are ratios taken side by side in one run."""
