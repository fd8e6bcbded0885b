"""What changes patches on the device."""
