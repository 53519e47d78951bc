"""Registration of the `cr` model type with transformers' Auto classes, without waiting for them to be imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

AUTO_CONFIG, AUTO_MODEL = "transformers.models.auto.configuration_auto", "transformers.models.auto.modeling_auto"

ON_A_BACKBONE = (
    *("CRModel", "CRForSequenceClassification", "CRForTokenClassification", "CRForMultipleChoice"),
    *("CRForImageClassification", "CRForAudioClassification"),
)


def _register() -> None:
    import transformers

    from . import modeling

    transformers.AutoConfig.register(modeling.CRConfig.model_type, modeling.CRConfig, exist_ok=True)
    for name in ON_A_BACKBONE:
        model = getattr(modeling, name)
        getattr(transformers, model.auto_class).register(modeling.CRConfig, model, exist_ok=True)


# The models' Auto classes import the configurations' themselves: then this import finds them under way, and the
# second entry registers once they are whole.
ONCE_IMPORTED: dict[str, Callable[[], object]] = {
    AUTO_CONFIG: lambda: importlib.import_module(AUTO_MODEL),
    AUTO_MODEL: _register,
}


def model_class_of(config: dict[str, Any]) -> Any:
    """The class of a saved classifier on a backbone, by its `config.json`."""
    from . import modeling

    name = next(iter(config.get("architectures") or ()), None)
    return getattr(modeling, name if name in ON_A_BACKBONE else "CRForSequenceClassification")


class _WhenImported:
    """Registers right after a module of `ONCE_IMPORTED` has run: importing them takes seconds, `cr-hf --help` none."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in ONCE_IMPORTED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            ONCE_IMPORTED[name]()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def register_auto_classes() -> None:
    """Teach the Auto classes of transformers the `cr` model type: now, or once they are imported.

    Called when the package is imported; calling it again changes nothing.
    """
    if AUTO_CONFIG in sys.modules:
        _register()
    if not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())
