"""What is wrong with a data set: duplicates, images in train and validation, dark or blurred ones, doubtful labels."""

from .findings import DataReport, Finding
from .review import check_data

__all__ = ["DataReport", "Finding", "check_data"]
