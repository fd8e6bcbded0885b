"""Which scan to annotate next, and its labels taken in."""
