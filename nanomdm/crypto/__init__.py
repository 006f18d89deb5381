"""
Who sent a request: C{Mdm-Signature}, certificate headers, certificate chains.
"""
