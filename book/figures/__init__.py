"""The live figures of the pages: a module for each figure or two that share runs, and what these share."""
