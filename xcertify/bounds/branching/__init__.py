"""Branch and bound: questions to a network that are answered, with a proof or a counterexample."""
