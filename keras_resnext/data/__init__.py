"""From images on disk to batches: listings, checks, augmentation, tf.data and PyDataset."""

from .augment import Augmentation
from .batches import Plan, ValidationBatches, training_batches
from .check import check_images, default_skip_limit, find_unreadable, leave_out_unreadable
from .listing import CachedReader, Listing, find_splits, read_listing, split_listing

__all__ = [
    "Augmentation",
    "CachedReader",
    "Listing",
    "Plan",
    "ValidationBatches",
    "check_images",
    "default_skip_limit",
    "find_splits",
    "find_unreadable",
    "leave_out_unreadable",
    "read_listing",
    "split_listing",
    "training_batches",
]
