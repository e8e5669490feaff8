"""Learning from a teacher: its predictions kept in files, and whether two models read the same tokens."""
