"""The paper: its printed numbers, the specs of its tables, selection, statistics and rendering."""
