"""What a finished run says of itself, for tests of cards."""

from typing import Any

RESULTS: dict[str, Any] = {
    "cr_hf_version": "0.1.0",
    "data": {
        "source": "SetFit/sst5",
        "revision": "abc123",
        "synthetic": False,
        "labels": ["bad", "good"],
        "rows": {"train": 8544, "validation": 1101, "test": 2210},
    },
    "model": {
        "activation": "polynomial",
        "hidden_sizes": [128, 64],
        "in_features": 2688,
        "dropout": 0.3,
        "pooling": "mean",
        "feature_layers": "all",
        "feature_norm": "standardize",
        "dreg_lambda": 0.0217,
        "dreg_mode": "layer",
        "freeze_backbone": True,
        "backbone_type": "bert",
        "parameters_head": 362373,
        "parameters_total": 22927749,
    },
    "training": {"seed": 3, "epochs": 6.0, "steps": 402, "seconds_training": 12.34, "seconds_preparing": 56.78},
    "metrics": {
        "validation": {"accuracy": 0.4612, "macro_f1": 0.4412, "accuracy_interval": [0.43, 0.49], "rows": 1101},
        "test": {"accuracy": 0.4731, "macro_f1": 0.4533, "accuracy_interval": [0.4523, 0.4939], "rows": 2210},
    },
    "environment": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "device": "CPU (x86_64)"},
}
SOURCE = {"repo_id": "org/encoder", "revision": "f" * 40, "sha256": {"model.safetensors": "0" * 64}}
CONFIG: dict[str, Any] = {"head_only": True, "backbone_source": SOURCE}
STUDY = {
    "seeds": 3,
    "fractions": {
        "0.05": {"heads": {"linear": {"test_accuracies": [0.1, 0.1, 0.1]}}},
        "1.0": {
            "heads": {
                "linear": {"test_accuracies": [0.44, 0.45, 0.46]},
                "cr+dreg": {"test_accuracies": [0.47, 0.48, 0.49]},
            }
        },
    },
}
