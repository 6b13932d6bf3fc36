"""The protocol of all results that the documentation shows: data, networks, runs, intervals.

Settings are chosen on *validation* images with a network of seed 0, and reported on *fresh* images,
which nothing was chosen on, with networks of seeds 1, 2 and 3.
"""
