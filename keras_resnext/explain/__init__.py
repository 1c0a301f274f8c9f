"""Why a classifier says what it says: Grad-CAM, feature maps, and features for retrieval."""

from .class_activation import grad_cam
from .explanation import Explanation, explain_feature_maps, explain_image
from .features import extract_features, feature_maps

__all__ = ["Explanation", "explain_feature_maps", "explain_image", "extract_features", "feature_maps", "grad_cam"]
