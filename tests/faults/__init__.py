"""
What the server does when something is wrong.
"""
