"""One file a command: the straight line from addresses to results. No parsing, no printing."""
