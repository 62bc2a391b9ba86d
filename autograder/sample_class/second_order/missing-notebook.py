# %% [markdown] damage={"missing": true}
# The folder was handed in without the notebook.
