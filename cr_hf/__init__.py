"""ChainzRule (CR) networks for Hugging Face Transformers.

Importing the package registers the `cr` model type, so that `AutoConfig`, `AutoModelForSequenceClassification` and
`pipeline` load CR checkpoints. Nothing heavy is imported for it: the classes below are imported when they are first
used, and the model type is registered when transformers' Auto classes are.
"""

import lazy_loader

from ._registration import register_auto_classes

__version__ = "0.1.0"

__getattr__, _dir, _exports = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", "register_auto_classes", *_exports]


def __dir__() -> list[str]:
    return sorted(__all__)


register_auto_classes()
