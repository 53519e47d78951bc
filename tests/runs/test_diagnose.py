"""The reference that a run keeps, `cr-hf diagnose`, and the tokens that a prediction hangs on."""
