"""Regression, several labels a row and pairs of texts: losses of torch, recipes, metrics, predictions."""
