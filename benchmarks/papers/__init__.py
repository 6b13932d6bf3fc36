"""What is measured of each paper: a module has `pieces`, and `blocks` for the documentation."""
