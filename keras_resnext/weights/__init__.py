"""Weights by name, file or array, and the way into a model and back."""
