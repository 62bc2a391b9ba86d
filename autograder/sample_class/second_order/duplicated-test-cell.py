# %% [markdown] start="solved" damage={"duplicate": ["check_bfgs_update", "newton_step"]}
# A test cell and a solution cell were copied together with their metadata.
