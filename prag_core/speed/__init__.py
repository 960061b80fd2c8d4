"""Speed: every path timed beside its baseline, in one run."""
