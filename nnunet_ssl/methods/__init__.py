"""One file per paper, each reading like its algorithm box."""
