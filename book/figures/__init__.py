"""The live figures of the pages: one module for each page, functions that call `steepest`."""
