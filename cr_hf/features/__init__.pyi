from .cache import clear_caches as clear_caches
from .cache import list_caches as list_caches
from .encode import FeatureDataset as FeatureDataset
from .encode import classify_features as classify_features
from .encode import collate_features as collate_features
from .encode import encode_splits as encode_splits
from .encode import encode_texts as encode_texts
from .text_encoder import TextEncoder as TextEncoder
