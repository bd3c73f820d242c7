"""The run card: what a run was, did, cost and came to, on one page that opens without a network."""
