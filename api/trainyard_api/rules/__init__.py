"""Rules across fields, by subject; `rules.all_rules` lists them."""
