"""Whether a run is on track: its curves beside those of reference runs on similar data."""
