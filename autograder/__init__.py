"""Exercises, the judge that names misconceptions, and the way from solution file to gradebook."""
