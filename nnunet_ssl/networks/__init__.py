"""Networks beside nnU-Net's own: the student as methods see it, EMA teachers, sources of randomness."""
