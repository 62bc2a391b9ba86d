# %% [markdown]
# The assignment handed in as it was released.
