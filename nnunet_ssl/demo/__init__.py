"""A complete run on data made on the spot: what `nnunet_ssl demo` does."""
