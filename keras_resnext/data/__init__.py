"""From images on disk to batches: listings, checks, augmentation, tf.data and PyDataset."""

import lazy_loader as _lazy

# The public names stand in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
