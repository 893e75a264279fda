"""What cleft costs, measured side by side: `make bench`."""
