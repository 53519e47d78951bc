"""What travels to the Hub: the CR head, its layers and penalty, and the classifiers that carry it.

In come features, or token ids for a backbone; out come logits, the task loss and DREG of every layer. The files are
flat and import each other as `from .x import Y` alone, so that a checkpoint takes them along as remote code and loads
where the package is not installed. They import nothing else of it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Registers the `cr` model type on the way (see `_registration.py`), before a file of this folder is half imported.
import transformers.models.auto.modeling_auto  # noqa: E402, F401
