"""Spatial transformers: the package of the book *Where to Look*.

Each chapter of the book builds one piece of this package in the open and then imports it.
"""

from stn_helpers.localization import theta_head
from stn_helpers.sampling import bilinear_sample, sample
from stn_helpers.spatial_transformer import Glimpse, ParallelSpatialTransformer, SpatialTransformer
from stn_helpers.transforms import Affine, Attention, Projective, Similarity, ThinPlateSpline

__all__ = [
    "Affine",
    "Attention",
    "Glimpse",
    "ParallelSpatialTransformer",
    "Projective",
    "Similarity",
    "SpatialTransformer",
    "ThinPlateSpline",
    "bilinear_sample",
    "sample",
    "theta_head",
]
