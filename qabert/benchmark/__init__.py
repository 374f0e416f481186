"""How fast is this package beside its peers?  One command measures all of them, side by side in one run.

The lowest room: it may import every other one, and none imports it.
"""
