"""Voxel losses that two or more methods use: pure functions of tensors (B, C, *spatial)."""
