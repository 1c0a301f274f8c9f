"""The network: what it is (`structure`, `architectures`), its layers, and what it costs."""
