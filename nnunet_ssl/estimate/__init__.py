"""What a training will take, before it is begun: `nnunet_ssl estimate`."""
