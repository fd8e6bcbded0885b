"""nnU-Net's training loop, joined to a method and an unlabeled stream."""
