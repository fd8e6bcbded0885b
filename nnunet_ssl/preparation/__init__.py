"""What is done before a training."""
