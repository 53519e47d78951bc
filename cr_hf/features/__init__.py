"""Features of texts, encoded once by a frozen backbone and kept on disk.

In come texts and a classifier; out come arrays of shape (rows, in_features), memory-mapped, and logits of features.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
