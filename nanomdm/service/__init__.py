"""
What the server does with a message, once it is known who sent it.
"""
