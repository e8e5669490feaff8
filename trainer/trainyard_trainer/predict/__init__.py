"""`trainyard predict`: what an exported model says of new records."""
