"""The book: its pages, the functions behind its figures, its claims, and the Sphinx extensions that build it."""
