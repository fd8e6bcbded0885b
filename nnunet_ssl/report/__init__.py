"""The report on accuracy records: `nnunet_ssl report`."""
