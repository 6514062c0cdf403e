"""The grid, and where it runs. Nothing here imports torch; workers and jobs do."""
