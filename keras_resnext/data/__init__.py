"""From pictures on disk to batches: listings, checks, augmentation, tf.data and PyDataset."""

from .listing import Listing, find_splits, read_listing, split_listing

__all__ = ["Listing", "find_splits", "read_listing", "split_listing"]
