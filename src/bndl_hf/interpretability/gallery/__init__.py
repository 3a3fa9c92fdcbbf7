"""What each factor stands for, in pictures: the gallery of factors and its page."""

from bndl_hf.interpretability.gallery.cards import FactorCard, FactorGallery
from bndl_hf.interpretability.gallery.factor_gallery import factor_gallery

__all__ = ["FactorCard", "FactorGallery", "factor_gallery"]
