"""Supervised fine-tuning: what a policy learns from demonstrations before it is reinforced."""
