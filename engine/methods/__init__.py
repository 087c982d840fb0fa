"""Attribution methods, one file each; the registry finds them.

A method is a rule table, the values that the rewritten graph returns, and a reduction of those.
"""
