"""What a classifier is worth and how sensitive it is.

In come logits, labels, features and heads; out come metrics, intervals, gradient norms, Lipschitz bounds and accuracy
on damaged texts. Nothing here trains, and nothing knows of recipes or run directories.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
