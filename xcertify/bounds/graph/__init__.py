"""The network as nodes: operations, what is known of them, and backpropagation."""
