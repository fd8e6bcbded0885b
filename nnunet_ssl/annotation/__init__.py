"""Which scan to annotate next, and taking its labels in."""
