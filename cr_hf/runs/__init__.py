"""A recipe to a finished run directory, and what is asked of a finished run.

In comes a YAML file; out comes a directory with model, tokenizer, resolved recipe and `results.json`. Evaluation,
prediction and diagnostics of finished runs read that directory again.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
