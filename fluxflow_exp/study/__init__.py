"""A question as one command: runs that are planned, trained, measured and compared, and the page that answers."""
