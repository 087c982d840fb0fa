"""Being written by another engineer right now: leave this family (rules and tests) to them."""
