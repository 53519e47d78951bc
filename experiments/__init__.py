"""The papers' regimes, one file each: `python -m experiments.NAME`. They write to `experiments/results`."""
