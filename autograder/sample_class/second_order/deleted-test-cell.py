# %% [markdown] start="solved" damage={"delete": ["check_lbfgs_direction"]}
# The test cell of one exercise was deleted.
