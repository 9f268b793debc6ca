"""One self-contained HTML page of a run or of several: no script, no external file, readable in ten years."""
