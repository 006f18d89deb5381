"""
nanomdm for Twisted: the core Apple MDM server.
"""

__version__ = "0.1.0"
