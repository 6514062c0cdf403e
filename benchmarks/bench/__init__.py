"""What a run costs over its matrix products: `rlrr-bench bench training` (part of make bench).

Everything is measured in one session. Compared runs take turns, and values are medians of several
rounds.

steps     a method's training step over its floor, with the same backbone, batch and device
memory    peak memory of a training process, over that of its floor
scoring   a trained model over the plain timm model's forward pass
frozen    100 epochs with kept features over 100 that compute the frozen part in each step
run       a run of the harness by phase, and the share of it that is not the model's work
grid      runs per hour of a pack of the demo grid

Floors: input = frozen timm model, forward and gradient to the first block's input (two matrix
products a linear layer); full = plain full fine-tuning (three); forward = forward only (one).
"""
