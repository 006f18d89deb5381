"""
The operators' API: who may use it (L{nanomdm.http.api.keys}), what its endpoints have
in common (L{nanomdm.http.api.guard}), and the endpoints.
"""
