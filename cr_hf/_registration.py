"""Registration of the `cr` model type with transformers' Auto classes, without waiting for them to be imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

AUTO_CONFIG = "transformers.models.auto.configuration_auto"

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


def model_class_of(config: dict[str, Any]) -> Any:
    """The class of a saved classifier on a backbone, by its `config.json`."""
    from . import modeling

    name = next(iter(config.get("architectures") or ()), None)
    return getattr(modeling, name if name in ON_A_BACKBONE else "CRForSequenceClassification")


class _AfterImports:
    """Registers as soon as the Auto classes are there and no module of transformers is half imported.

    Importing them takes seconds, `cr-hf --help` none; and the models' own imports must find transformers whole.
    """

    depth = 0

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] != "transformers":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            self.depth += 1
            try:
                run(module)
            finally:
                self.depth -= 1
            if not self.depth and AUTO_CONFIG in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def register_auto_classes() -> None:
    """Teach the Auto classes of transformers the `cr` model type: now, or once they are imported.

    Called when the package is imported; calling it again changes nothing.
    """
    if AUTO_CONFIG in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterImports) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImports())
