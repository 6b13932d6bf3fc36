"""Propagation: how bounds go through a graph, forward by intervals and backward by lines."""
