"""Converters of public data sets to nnU-Net raw datasets with unlabeled cases, one module per data set."""
