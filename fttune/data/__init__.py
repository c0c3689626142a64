"""Images in, decoded arrays out: sources, splits, the decode store, augmentation. Knows no model."""

from fttune.data.augmentation import augment
from fttune.data.image_data import Geometry, ImageData, Part
from fttune.data.load import load_data

__all__ = ["Geometry", "ImageData", "Part", "augment", "load_data"]
