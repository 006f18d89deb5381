"""
What the network sees: the resource tree, its limits and its answers.
"""
