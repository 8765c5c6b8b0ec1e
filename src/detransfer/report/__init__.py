"""What the numbers say: runs gathered into tables, beside the published ones."""
