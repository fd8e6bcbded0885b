"""What the converters of public data sets share."""
