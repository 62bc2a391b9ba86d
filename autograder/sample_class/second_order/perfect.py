# %% [markdown] start="solved"
# Every exercise solved, as in the solution file.
