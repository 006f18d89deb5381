"""
The MDM protocol's messages: pure functions over bytes, no Twisted and no I/O.
"""
