"""What comes of a training: measures and models for elsewhere."""
