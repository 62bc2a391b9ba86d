# %% [markdown] start="solved" damage={"kernel": "julia-1.11"}
# Handed in from an environment with another kernel.
