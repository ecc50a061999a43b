"""Measurements of speed and memory: what `treerl bench` runs. Ratios are measured side by side in one run."""
