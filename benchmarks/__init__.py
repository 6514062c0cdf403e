"""What is measured: tasks, images, backbones, recipes, the one trainer, one run and its record."""
