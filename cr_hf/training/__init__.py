"""Training of heads and of classifiers.

In come a model or a configuration, rows or features, and `CRTrainingArguments`; out come trained weights: by
`CRTrainer` one at a time, by `train_heads` many at once on the same features. Checkpoints that can be resumed exactly
stand here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
