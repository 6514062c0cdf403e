"""What a run costs over its matrix products: `rlrr-bench bench training` (part of make bench).

Everything is measured in one session, compared runs taking turns, as medians of several rounds.

steps     a method's training step over the floor of its kind: same backbone, batch and device
memory    peak of a process that trains, over the floor's
scoring   a trained model over the plain timm model's forward pass
frozen    100 epochs with kept features over 100 that compute the frozen part each step
run       a run of the harness by phase, and what of it is not the model's own work
grid      runs per hour of a pack of the demo grid

Floors: input = frozen timm model, forward and gradient to the first block's input (two matrix
products a linear layer); full = plain full fine-tuning (three); forward = forward only (one).
"""
