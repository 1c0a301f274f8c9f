"""How fast this package is beside its peers, on whichever machine it is asked.

Every figure is a ratio of medians. The contenders are processes of their own that take turns, so that what else the
machine does falls on all of them; a peer that is not installed is said to be missing, and the rest runs.
"""

import lazy_loader as _lazy

# The public names stand in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
