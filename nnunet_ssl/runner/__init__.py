"""Cross-validation with stock `nnUNetv2_train`: the plan, the runs on this machine or a cluster, and the table."""
