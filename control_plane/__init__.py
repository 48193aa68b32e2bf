"""The control plane: admission, clustering, placement and dispatch."""
