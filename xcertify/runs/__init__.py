"""Runs: any number of inputs, part by part, into a folder that says how they were made."""
