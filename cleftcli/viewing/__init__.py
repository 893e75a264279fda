"""What can be seen of an output: numbers for each section of a report, charts, pictures, a page."""
