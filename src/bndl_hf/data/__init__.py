"""Images: from the name of a dataset to pixel values and labels."""

from bndl_hf.data.augmentation import AUGMENTATIONS
from bndl_hf.data.image_dataset import DataArguments, ImageDataset, load_image_dataset
from bndl_hf.data.images_in_memory import (
    IN_MEMORY_AUGMENTATIONS,
    ImagesInMemory,
    RawPixels,
    channel_statistics,
    read_pixels,
    whole_batch,
)
from bndl_hf.data.pixel_values import collate, decode_image, make_image_processor
from bndl_hf.data.unlabelled import load_unlabelled_images

__all__ = [
    "AUGMENTATIONS",
    "IN_MEMORY_AUGMENTATIONS",
    "DataArguments",
    "ImageDataset",
    "ImagesInMemory",
    "RawPixels",
    "channel_statistics",
    "collate",
    "decode_image",
    "load_image_dataset",
    "load_unlabelled_images",
    "make_image_processor",
    "read_pixels",
    "whole_batch",
]
