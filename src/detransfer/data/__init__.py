"""Data sets: sources, archives, readers, the index, the miniature world, loading."""
