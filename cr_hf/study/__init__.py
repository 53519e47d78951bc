"""Heads x shares of the labels x seeds on the same features, with paired statistics.

In comes a recipe of a frozen backbone or a table; out come `study.json`, tables, pictures and `report.html`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
