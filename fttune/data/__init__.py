"""Images in, decoded arrays out: sources, splits, the decode store, augmentation. Knows no model."""

from fttune.data.arrays import ArrayCache, NoRoom, in_memory
from fttune.data.augmentation import augment
from fttune.data.check import Checked, check_data
from fttune.data.files import decode_files, image_files
from fttune.data.findings import Finding
from fttune.data.image_data import Folds, Geometry, ImageData, Part
from fttune.data.images import Unreadable
from fttune.data.load import has_test, load_data, load_folds, open_test
from fttune.data.manifest import DataChange, Manifest, changes
from fttune.data.rows import Rows, Spec, Stored
from fttune.data.survey import Copies, Survey, imbalance, look
from fttune.data.views import with_views

__all__ = [
    "ArrayCache",
    "Checked",
    "Copies",
    "DataChange",
    "Finding",
    "Folds",
    "Geometry",
    "ImageData",
    "Manifest",
    "NoRoom",
    "Part",
    "Rows",
    "Spec",
    "Stored",
    "Survey",
    "Unreadable",
    "augment",
    "changes",
    "check_data",
    "decode_files",
    "has_test",
    "image_files",
    "imbalance",
    "in_memory",
    "load_data",
    "load_folds",
    "look",
    "open_test",
    "with_views",
]
