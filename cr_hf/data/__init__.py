"""Rows in, checked `datasets.DatasetDict` out.

In comes a `DataConfig`: a Hub data set, files of one's own, a table of numbers, or the embedded demo reviews. Out come
splits with texts or features and labels, every row checked, and the names of the classes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
