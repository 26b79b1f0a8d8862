"""Graphs: built by recipes, rewritten by passes, planned, and run as one program."""
