# %% [markdown] start="solved" damage={"truncate": 3000}
# The file was cut off while it was handed in.
