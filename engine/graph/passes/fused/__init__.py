"""How fused operators are split, one module per kind. Importing a module registers its splitters."""
