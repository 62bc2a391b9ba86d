# %% [markdown] damage={"points": {"check_newton_step": 400}}
# Nothing solved, but the first exercise is now worth 400 points.
