"""From a finished run to the Hub: the model card, the folder to publish, the verified commit.

In comes a run directory; out comes a repository that loads without the package, checked before anything is sent.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
