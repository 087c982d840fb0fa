"""Rules other than the gradient's for the same walk: what a method puts in their place, and where.

A method names predicates and tables; whatever no table serves keeps its plain gradient.
"""
