"""TreeRL as services: sampler, verifier, trainer, the `treerl` command, and what they share."""
