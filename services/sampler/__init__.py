"""The tree sampler: EPTree search over an inference engine, with weights that can be replaced while it runs."""
