"""Misconceptions about second-order methods, written into the reference."""

from tests.mutants import mutants_in

NEWTON = ("tests/second_order/test_newton.py",)
HUTCHINSON = ("tests/second_order/test_hutchinson.py",)
ADAHESSIAN = ("tests/second_order/test_adahessian.py",)
LBFGS_DIRECTION = ("tests/second_order/test_lbfgs_direction.py",)
LBFGS_TESTS = ("tests/second_order/test_lbfgs.py",)
LINE_SEARCH = ("tests/second_order/test_line_search.py",)
BFGS = ("tests/second_order/test_bfgs.py",)
HESSIAN_VECTOR = ("tests/second_order/test_hessian_vector.py",)
CONJUGATE_GRADIENT = ("tests/second_order/test_conjugate_gradient.py",)
NONLINEAR_CG = ("tests/second_order/test_nonlinear_cg.py",)
NEWTON_CG = ("tests/second_order/test_newton_cg.py",)
FISHER = ("tests/second_order/test_fisher.py",)
GAUSS_NEWTON = ("tests/second_order/test_gauss_newton.py",)
NATURAL_GRADIENT = ("tests/second_order/test_natural_gradient.py",)
KFAC = ("tests/second_order/test_kfac.py",)

MUTANTS = [
    *mutants_in(
        "steepest/second_order/saddle_free.py",
        NEWTON,
        (
            "saddle-free Newton clamps negative eigenvalues instead of reflecting them",
            "curvature = eigenvalues.abs() + damping",
            "curvature = eigenvalues.clamp(min=1e-3) + damping",
        ),
        ("saddle-free step uphill", "return -(eigenvectors", "return (eigenvectors"),
        (
            "saddle-free damping subtracted",
            "curvature = eigenvalues.abs() + damping",
            "curvature = eigenvalues.abs() - damping",
        ),
        (
            "NaN eigenvalues pass for regular ones",
            "if not bool(curvature.min() > noise):",
            "if bool(curvature.min() <= noise):",
        ),
    ),
    *mutants_in(
        "steepest/second_order/conjugate_gradient.py",
        CONJUGATE_GRADIENT,
        (
            "linear CG step with d^T d for d^T A d",
            "curvature = torch.dot(direction, product)",
            "curvature = torch.dot(direction, direction)",
        ),
        (
            "linear CG direction without the earlier ones",
            "torch.addcmul(preconditioned, direction, rho / previous_rho, out=direction)",
            "direction = preconditioned.clone()",
        ),
        ("linear CG weight upside down", "direction, rho / previous_rho, out", "direction, previous_rho / rho, out"),
        (
            "linear CG weight of the wrong sign",
            "direction, rho / previous_rho, out",
            "direction, -rho / previous_rho, out",
        ),
        (
            "linear CG step from r^T r where there is a preconditioner",
            "rho = torch.dot(residual, preconditioned)",
            "rho = torch.dot(residual, residual)",
        ),
        (
            "linear CG preconditioner used for the first direction only",
            "preconditioned = residual if precondition is None else",
            "preconditioned = residual if precondition is None or direction is not None else",
        ),
        (
            "linear CG residual grows with the step",
            "residual.addcmul_(product, step_size, value=-1)",
            "residual.addcmul_(product, step_size, value=1)",
        ),
        (
            "linear CG starts from b though x0 is given",
            "residual = b.clone() if x0 is None else b - multiply(solution)",
            "residual = b.clone()",
        ),
        ("linear CG tolerance without the norm of b", "target = max(rtol * b_norm, atol)", "target = max(rtol, atol)"),
        (
            "linear CG tolerance the smaller of the two",
            "target = max(rtol * b_norm, atol)",
            "target = min(rtol * b_norm, atol or rtol * b_norm)",
        ),
        (
            "linear CG walks on through negative curvature",
            "elif math.isfinite(host_curvature) and host_curvature <= 0:",
            "elif math.isfinite(host_curvature) and host_curvature < -1e300:",
        ),
        (
            "linear CG takes zero curvature for a positive one",
            "elif math.isfinite(host_curvature) and host_curvature <= 0:",
            "elif math.isfinite(host_curvature) and host_curvature < 0:",
        ),
        (
            "linear CG moves along negative curvature before it stops",
            "reason, negative = NEGATIVE_CURVATURE, direction\n",
            "reason, negative, solution = NEGATIVE_CURVATURE, direction, solution + step_size * direction\n",
        ),
        (
            "linear CG returns the residual as the direction of negative curvature",
            "reason, negative = NEGATIVE_CURVATURE, direction\n",
            "reason, negative = NEGATIVE_CURVATURE, residual\n",
        ),
        (
            "linear CG reports the recurrence's residual as the true one",
            "to_host(_norm(b - multiply(solution))) if iterations else",
            "to_host(_norm(residual)) if iterations else",
        ),
        (
            "linear CG calls it converged where only the recurrence is",
            "if converged and not residual_norm <= target:",
            "if False:",
        ),
        ("linear CG lets a bad preconditioner pass", "if math.isfinite(host_rho) and host_rho <= 0:", "if False:"),
        (
            "linear CG takes a non-finite step",
            "elif not math.isfinite(host_curvature + host_rho + square):",
            "elif False:",
        ),
        (
            "linear CG waits for the device twice a step",
            "        step_size = rho / curvature",
            "        to_host(curvature)\n        step_size = rho / curvature",
        ),
        (
            "linear CG computes the residual anew in each step",
            "residual.addcmul_(product, step_size, value=-1)",
            "residual = b - multiply(torch.addcmul(solution, direction, step_size))",
        ),
        (
            "linear CG moves the caller's x0",
            "torch.zeros_like(b) if x0 is None else x0.detach().clone()",
            "torch.zeros_like(b) if x0 is None else x0.detach()",
        ),
        (
            "linear CG norms whose squares vanish in float32",
            "torch.linalg.vector_norm(vector, dtype=torch.float64)",
            "torch.linalg.vector_norm(vector)",
        ),
        ("linear CG moves the caller's b", "residual = b.clone() if x0 is None", "residual = b if x0 is None"),
        ("linear CG hands its callback the vector that moves on", "callback(solution.clone())", "callback(solution)"),
        (
            "linear CG moves what the preconditioner returned",
            "direction = preconditioned.clone()",
            "direction = preconditioned",
        ),
        ("linear CG allows D steps", "maxiter = 10 * b.numel()", "maxiter = b.numel()"),
    ),
    *mutants_in(
        "steepest/second_order/nonlinear_cg_beta.py",
        NONLINEAR_CG,
        (
            "Fletcher-Reeves divides by the new gradient",
            "torch.dot(gradient, gradient) / torch.dot(previous_gradient, previous_gradient)",
            "torch.dot(gradient, gradient) / torch.dot(gradient, gradient)",
        ),
        (
            "Fletcher-Reeves without the squares",
            "torch.dot(gradient, gradient) / torch.dot(previous_gradient, previous_gradient)",
            "(torch.dot(gradient, gradient) / torch.dot(previous_gradient, previous_gradient)).sqrt()",
        ),
        (
            "Fletcher-Reeves upside down",
            "torch.dot(gradient, gradient) / torch.dot(previous_gradient, previous_gradient)",
            "torch.dot(previous_gradient, previous_gradient) / torch.dot(gradient, gradient)",
        ),
        (
            "Polak-Ribiere without max(0, .)",
            "return (torch.dot(gradient, change) / torch.dot(previous_gradient, previous_gradient)).clamp(min=0)",
            "return torch.dot(gradient, change) / torch.dot(previous_gradient, previous_gradient)",
        ),
        (
            "Polak-Ribiere divides by the new gradient",
            "(torch.dot(gradient, change) / torch.dot(previous_gradient, previous_gradient))",
            "(torch.dot(gradient, change) / torch.dot(gradient, gradient))",
        ),
        (
            "Polak-Ribiere with the change's sign flipped",
            "change = gradient - previous_gradient",
            "change = previous_gradient - gradient",
        ),
        (
            "Polak-Ribiere multiplies the change by the old gradient",
            "torch.dot(gradient, change)",
            "torch.dot(previous_gradient, change)",
        ),
        (
            "the two formulas for beta swapped",
            '"polak_ribiere_plus": polak_ribiere_plus_beta, "fletcher_reeves": fletcher_reeves_beta',
            '"polak_ribiere_plus": fletcher_reeves_beta, "fletcher_reeves": polak_ribiere_plus_beta',
        ),
    ),
    *mutants_in(
        "steepest/second_order/nonlinear_cg.py",
        NONLINEAR_CG,
        ("nonlinear CG direction uphill", "torch.addcmul(-gradient, state", "torch.addcmul(gradient, state"),
        (
            "nonlinear CG is steepest descent",
            'torch.addcmul(-gradient, state["direction"], beta)',
            'torch.addcmul(-gradient, state["direction"], 0 * beta)',
        ),
        (
            "nonlinear CG remembers the new gradient for the old one",
            "gradient=current.gradient, value=new.value",
            "gradient=new.gradient, value=new.value",
        ),
        ("nonlinear CG search as loose as for quasi-Newton", "C1, C2 = 1e-4, 0.1", "C1, C2 = 1e-4, 0.9"),
        (
            "nonlinear CG never restarts after D steps",
            'if 0 < state["steps"] < (group["restart_interval"] or gradient.numel()):',
            'if 0 < state["steps"]:',
        ),
        (
            "nonlinear CG restarts a step late",
            'if 0 < state["steps"] < (group["restart_interval"] or gradient.numel()):',
            'if 0 < state["steps"] <= (group["restart_interval"] or gradient.numel()):',
        ),
        (
            "nonlinear CG keeps directions that climb",
            "if -math.inf < slope < 0 and abs(overlap) <",
            "if abs(overlap) <",
        ),
        ("nonlinear CG orthogonality test left out", ' and abs(overlap) < group["restart_threshold"] * square:', ":"),
        (
            "nonlinear CG defaults for the two formulas swapped",
            'restart_threshold = 0.1 if beta == "fletcher_reeves" else math.inf',
            'restart_threshold = 0.1 if beta != "fletcher_reeves" else math.inf',
        ),
        ("nonlinear CG orthogonality test without the absolute value", "and abs(overlap) <", "and overlap <"),
        (
            "nonlinear CG search from the same step each time",
            'step_size = 2 * state["decrease"] / -slope',
            'step_size = 0 * state["decrease"]',
        ),
        (
            "nonlinear CG search from half the step",
            'step_size = 2 * state["decrease"] / -slope',
            'step_size = state["decrease"] / -slope',
        ),
        (
            "nonlinear CG first step not scaled by the gradient",
            'return self.param_groups[0]["lr"] * min(1.0, 1 / total)',
            'return self.param_groups[0]["lr"]',
        ),
        (
            "nonlinear CG first step without lr",
            'return self.param_groups[0]["lr"] * min(1.0, 1 / total)',
            "return min(1.0, 1 / total)",
        ),
        (
            "nonlinear CG mixes the directions of different data",
            '> math.sqrt(finfo.eps) * abs(state["value"]):',
            "> math.inf:",
        ),
        ("nonlinear CG restarts at a difference by rounding", '> math.sqrt(finfo.eps) * abs(state["value"]):', "> 0:"),
        ("nonlinear CG restarts not counted", '    state["restarts"] += 1\n', "\n"),
        (
            "nonlinear CG goes on from a failed search as before",
            '                _restart(state)\n                state["decrease"] = 0.0',
            '                state["decrease"] = 0.0',
        ),
        (
            "nonlinear CG searches again from the step that led astray",
            '                state["decrease"] = 0.0  # it',
            "                pass  # it",
        ),
        (
            "nonlinear CG state_dict changes with later steps",
            '{key: dict(entries) for key, entries in packed["state"].items()}',
            'packed["state"]',
        ),
        ("nonlinear CG leaves the parameters at a failed trial", "objective.reset(objective.point)", "pass"),
    ),
    *mutants_in(
        "steepest/second_order/newton_cg.py",
        NEWTON_CG,
        (
            "Newton-CG solves for the step uphill",
            "        -current.gradient,\n        rtol",
            "        current.gradient,\n        rtol",
        ),
        ("Newton-CG damping subtracted", "vector, alpha=damping)", "vector, alpha=-damping)"),
        ("Newton-CG damping left out of the products", "vector, alpha=damping)", "vector, alpha=0.0)"),
        (
            "Newton-CG solves exactly from the start",
            "rtol=min(forcing, math.sqrt(current.gradient_norm))",
            "rtol=1e-10",
        ),
        (
            "Newton-CG solves to one half for ever",
            "rtol=min(forcing, math.sqrt(current.gradient_norm))",
            "rtol=forcing",
        ),
        (
            "Newton-CG forcing term without the root",
            "rtol=min(forcing, math.sqrt(current.gradient_norm))",
            "rtol=min(forcing, current.gradient_norm)",
        ),
        (
            "Newton-CG follows the direction of negative curvature itself",
            "direction = inner.solution if inner.iterations else",
            "direction = inner.direction if inner.direction is not None else inner.solution if inner.iterations else",
        ),
        (
            "Newton-CG falls back to the gradient at any negative curvature",
            "direction = inner.solution if inner.iterations else",
            "direction = inner.solution if inner.direction is None else",
        ),
        (
            "Newton-CG doesn't count negative curvature",
            "negative_curvatures += inner.reason == NEGATIVE_CURVATURE",
            "negative_curvatures += 0",
        ),
        ("Newton-CG damping rule turned round", "GROWTH, SHRINKAGE = 3 / 2, 2 / 3", "GROWTH, SHRINKAGE = 2 / 3, 3 / 2"),
        ("Newton-CG ratio with the whole slope for the model", "/ (-0.5 * slope)", "/ (-slope)"),
        (
            "Newton-CG ratio at the accepted step, not at step 1",
            "(current.value - trial_values[0])",
            "(current.value - result.value)",
        ),
        (
            "Newton-CG damping kept where the gradient has negative curvature",
            "if ratio < 0.25 or inner.iterations == 0:",
            "if ratio < 0.25:",
        ),
        (
            "Newton-CG damping grows at any negative curvature",
            "if ratio < 0.25 or inner.iterations == 0:",
            "if ratio < 0.25 or inner.direction is not None:",
        ),
        (
            "Newton-CG differentiates anew for each iteration's solve",
            "    current = CurvatureGraph(fn, x0)\n    iter",
            "    current = CurvatureGraph(fn, CurvatureGraph(fn, x0).point)\n    iter",
        ),
        ("Newton-CG counts iterations as products", "products += current.products", "products += inner.iterations"),
        ("Newton-CG pays a product for a residual that nobody reads", "true_residual=False,", "true_residual=True,"),
        (
            "the gradient of half g^T g for H v",
            "self._gradient, self._variable, grad_outputs=vector, retain",
            "self._gradient, self._variable, grad_outputs=self.gradient, retain",
        ),
        (
            "Newton-CG keeps the graphs of rejected trials",
            "values.append(trial.value)",
            "values.append(trial.value)\n        _along.__dict__.setdefault('kept', []).append(trial)",
        ),
        (
            "Newton-CG takes a vanished slope for convergence",
            "reason = ROUNDING\n            break",
            "reason = GRADIENT\n            break",
        ),
        (
            "Newton-CG takes the search limit for convergence",
            "converged = reason == MAX_ITER and current.gradient_max <= tolerance_grad",
            "converged = reason == MAX_ITER",
        ),
    ),
    *mutants_in(
        "steepest/second_order/fisher.py",
        FISHER,
        ("Fisher with labels drawn uniformly, not from the model", "* probabilities.sqrt()[:, :, None]", "/ c**0.5"),
        ("Fisher weighted by p² for p", "* probabilities.sqrt()[:, :, None]", "* probabilities[:, :, None]"),
        (
            "Fisher of the model's most likely label",
            "labels = times.argmin(2)",
            "labels = probabilities.argmax(1)[:, None].expand(n, samples)",
        ),
        (
            "labels drawn as the largest of the exponential times",
            "labels = times.argmin(2)",
            "labels = times.argmax(2)",
        ),
        ("drawn labels summed instead of averaged", ") / labels.shape[1] ** 0.5", ")"),
        (
            "drawn Gaussian labels summed instead of averaged",
            ".normal_(generator=generator) / samples**0.5",
            ".normal_(generator=generator)",
        ),
        ("generator ignored by drawn labels", ".exponential_(generator=generator)", ".exponential_()"),
        (
            "empirical Fisher for the Fisher: the most likely label for the data's",
            "labels = targets[:, None]",
            "labels = outputs.argmax(1, keepdim=True)",
        ),
        (
            "Fisher for the empirical Fisher: residuals of a Gaussian left out",
            "return (targets - outputs)[:, None]",
            "return torch.ones_like(outputs)[:, None]",
        ),
        ("score without the probabilities", "return (one_hot - probabilities[:, None])", "return one_hot"),
        ("Fisher as outer product of the mean gradient", "rows = scores.flatten(0, 1)", "rows = scores.sum(0)"),
        ("Fisher summed over the data", "return rows.mT @ rows / len(inputs)", "return rows.mT @ rows"),
        (
            "diagonal of the mean gradient squared",
            "scores.square().sum((0, 1)) / len(inputs)",
            "scores.sum((0, 1)).square() / len(inputs)",
        ),
        ("BatchNorm in training mode accepted", "    require_independent_samples(model)\n", ""),
    ),
    *mutants_in(
        "steepest/second_order/gauss_newton.py",
        GAUSS_NEWTON,
        ("GGN product without the loss Hessian", "transposed_jacobian(curved)", "transposed_jacobian(tangent)"),
        (
            "GGN product with the loss gradient's outer product for its Hessian",
            "(curved,) = loss_hessian(tangent)",
            "slope = torch.func.grad(scalar_loss)(outputs)\n        curved = slope * (slope * tangent).sum()",
        ),
    ),
    *mutants_in(
        "steepest/second_order/natural_gradient.py",
        NATURAL_GRADIENT,
        ("natural gradient step uphill", "return -torch.cholesky_solve", "return torch.cholesky_solve"),
        (
            "natural gradient by the square root of the Fisher matrix, as Adam's",
            "-torch.cholesky_solve(gradient[:, None], factor).squeeze(1)",
            "-torch.linalg.solve_triangular(factor, gradient[:, None], upper=False).squeeze(1)",
        ),
        (
            "natural gradient multiplied by the Fisher matrix",
            "-torch.cholesky_solve(gradient[:, None], factor).squeeze(1)",
            "-(damped @ gradient)",
        ),
        ("natural gradient damping subtracted", "damped.diagonal().add_(damping)", "damped.diagonal().sub_(damping)"),
        ("natural gradient damps the caller's matrix", "damped = fisher.clone()", "damped = fisher"),
        (
            "singular judged by the size of the pivots alone",
            "factor.diagonal().square() / matrix.diagonal()",
            "factor.diagonal().square()",
        ),
        (
            "singular only where the Cholesky factorisation fails",
            "(failed > 0) | ~(pivots > noise).all()",
            "failed > 0",
        ),
    ),
    *mutants_in(
        "steepest/second_order/kfac_factors.py",
        KFAC,
        ("K-FAC damping λ on both factors", "add_(pi * damping**0.5)", "add_(damping)"),
        ("K-FAC damping without π", "input_mean.sqrt() / gradient_mean.sqrt()", "torch.ones_like(input_mean)"),
        ("K-FAC π inverted", "input_mean.sqrt() / gradient_mean.sqrt()", "gradient_mean.sqrt() / input_mean.sqrt()"),
        (
            "K-FAC π from traces, not from mean eigenvalues",
            "input_factor.diagonal().mean(), gradient_factor.diagonal().mean()",
            "input_factor.trace(), gradient_factor.trace()",
        ),
        (
            "K-FAC π of a zero factor divides by zero",
            "torch.where(balanced, input_mean.sqrt() / gradient_mean.sqrt(), torch.ones_like(input_mean))",
            "input_mean.sqrt() / gradient_mean.sqrt()",
        ),
        ("K-FAC biases left out", " if with_bias else rows", " if with_bias and False else rows"),
        ("K-FAC bias coordinate of weight zero", "rows.new_ones(len(rows), 1)", "rows.new_zeros(len(rows), 1)"),
        (
            "running average from zero, without correction",
            'share = max(1 / state["updates"], 1 - decay)',
            "share = 1 - decay",
        ),
        (
            "running mean that never forgets",
            'share = max(1 / state["updates"], 1 - decay)',
            'share = 1 / state["updates"]',
        ),
        (
            "running average of A only",
            'state["gradient_factor"] = state["gradient_factor"].lerp(gradient_factor, share)',
            'state["gradient_factor"] = gradient_factor',
        ),
        (
            "averages written into a state_dict taken earlier",
            'state["input_factor"] = state["input_factor"].lerp(',
            'state["input_factor"] = state["input_factor"].lerp_(',
        ),
        ("singular damped factors pass", "if inverses and bool(", "if False and bool("),
        ("convolution's dilation ignored in patches", "dilation=layer.dilation, ", ""),
        ("convolution's stride ignored in patches", ", stride=layer.stride", ""),
        ("convolution's padding on the wrong axes", "in reversed(totals)", "in totals"),
        (
            "convolution padded by zeros in every mode",
            'mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode',
            'mode = "constant"',
        ),
        (
            "convolution's larger side of same padding first",
            "(total // 2, total - total // 2)",
            "(total - total // 2, total // 2)",
        ),
        (
            "convolution's gradients reshaped without bringing channels last",
            "gradient.flatten(-2).mT.reshape(-1, layer.out_channels)",
            "gradient.reshape(-1, layer.out_channels)",
        ),
        (
            "K-FAC's π leaves the range of float32",
            "input_mean.sqrt() / gradient_mean.sqrt()",
            "(input_mean / gradient_mean).sqrt()",
        ),
        (
            "K-FAC's inversion raises at a zero pivot and names no layer",
            "        cholesky.diagonal().masked_fill_(singular, 1.0)\n",
            "        pass\n",
        ),
        (
            "an image without batch dimension taken for a batch",
            "patches.mT.reshape(-1, patches.shape[-2])",
            "patches.mT.flatten(0, 1)",
        ),
    ),
    *mutants_in(
        "steepest/second_order/layer_recorder.py",
        KFAC,
        (
            "G from the gradient of the mean loss, 1/N² too small",
            "scores[:, k].to(outputs.dtype),",
            "scores[:, k].to(outputs.dtype) / len(outputs),",
        ),
        (
            "G summed over a convolution's places",
            "moment = rows.mT @ rows / len(rows)",
            "moment = rows.mT @ rows / len(outputs)",
        ),
        (
            "A averaged over a convolution's places",
            "found[weight] = (rows.mT @ rows / len(outputs), gradient_factor)",
            "found[weight] = (rows.mT @ rows / len(rows), gradient_factor)",
        ),
        ("G of the last label only", "gradient_factors[weight] + moment if k else moment", "moment"),
        ("gradient after an in-place activation taken for the layer's", "get_gradient_edge(output))", "output)"),
        ("layers recorded outside of the model's forward pass", "self._recording and layer.weight", "layer.weight"),
        ("a layer called twice keeps its last call", "if layer.weight in self._records:", "if False:"),
        (
            "a copy of the model disturbs what K-FAC recorded",
            "            if module is self._model:\n                self._records",
            "            if True:\n                self._records",
        ),
        ("K-FAC takes a parameter of two modules for one layer's own", "if len(owners[parameter]) > 1:", "if False:"),
        (
            "a forward pass under functional_call counts as the model's",
            "self.has_pass = own and torch.is_grad_enabled()",
            "self.has_pass = torch.is_grad_enabled()",
        ),
        (
            "K-FAC takes a forward pass that failed for one",
            "self.has_pass = self.has_pass and output is not None",
            "pass",
        ),
    ),
    *mutants_in(
        "steepest/second_order/kfac.py",
        KFAC,
        (
            "K-FAC inverts A only",
            'natural = state["gradient_inverse"] @ gradient @ state',
            "natural = gradient @ state",
        ),
        (
            "K-FAC inverses never renewed",
            'if "input_inverse" not in state or state["step"] % group["inverse_interval"] == 0:',
            'if "input_inverse" not in state:',
        ),
        (
            "K-FAC inverses renewed each step",
            'if "input_inverse" not in state or state["step"] % group["inverse_interval"] == 0:',
            "if True:",
        ),
        ("K-FAC factors updated each step", ' and step % self._group_of(weight)["factor_interval"] == 0', ""),
        ("K-FAC momentum buffer is the gradient itself", "direction.clone() if buffer", "direction if buffer"),
        (
            "K-FAC momentum averages instead of summing",
            'direction + group["momentum"] * buffer',
            'direction * (1 - group["momentum"]) + group["momentum"] * buffer',
        ),
        ("K-FAC ignores maximize", 'group["lr"] if group["maximize"] else -group["lr"]', '-group["lr"]'),
        (
            "K-FAC bias steps with its weight's options",
            "group = self._group_of(parameter)\n",
            "group = self.param_groups[0]\n",
        ),
        (
            "K-FAC bias takes the plain gradient",
            "zip(parameters, natural.split([p[0].numel() for p in parameters], 1), strict=True)",
            "zip(parameters[:1], natural.split([p[0].numel() for p in parameters], 1), strict=False)",
        ),
        (
            "K-FAC factors in autocast's precision",
            "with torch.autocast(outputs.device.type, enabled=False):",
            "with torch.enable_grad():",
        ),
        (
            "K-FAC state_dict changes with later steps",
            '{key: dict(entries) for key, entries in packed["state"].items()}',
            'packed["state"]',
        ),
        (
            "K-FAC factors from the data's labels forgotten",
            "self.likelihood, targets, self.samples",
            "self.likelihood, None, self.samples",
        ),
        ("K-FAC steps without factors", "if layered and not known:", "if False:"),
        (
            "K-FAC accepts outputs of an earlier pass and learns nothing",
            "if not factors and recorded and (recorded & known or not known):",
            "if False:",
        ),
        (
            "K-FAC refuses a pass in which only an idle layer is due",
            "if not factors and recorded and (recorded & known or not known):",
            "if not factors:",
        ),
        (
            "K-FAC preconditions in autocast's precision",
            "with torch.autocast(gradient.device.type, enabled=False):",
            "with torch.no_grad():",
        ),
    ),
    *mutants_in(
        "steepest/second_order/hutchinson.py",
        HUTCHINSON,
        (
            "Hutchinson averages absolute values (trace)",
            "samples = (torch.dot(probe, product) for",
            "samples = (torch.dot(probe, product).abs() for",
        ),
        (
            "Hutchinson averages absolute values (diagonal)",
            "samples = (probe * product for",
            "samples = ((probe * product).abs() for",
        ),
        ("Hutchinson's probes are 0 and 1", ".bitwise_and_(1).mul_(2).sub_(1)", ".bitwise_and_(1)"),
        (
            "Hutchinson's probes are Gaussian",
            "probe = random_signs(like.numel(), like.device, generator).to(like.dtype)  # (D,)",
            "probe = torch.empty_like(like).normal_(generator=generator)",
        ),
        (
            "Hutchinson uses one probe again and again",
            "    for _ in range(n_samples):\n        probe = random_signs(",
            "    probe = random_signs(like.numel(), like.device, generator).to(like.dtype)\n"
            "    for _ in range(n_samples):\n"
            "        random_signs(",
        ),
        (
            "Hutchinson's generator is ignored",
            "random_(-(2**63), None, generator=generator)",
            "random_(-(2**63), None)",
        ),
        (
            "Hutchinson's sum is not divided by the number of probes (diagonal)",
            "samples = (probe * product for",
            "samples = (n_samples * probe * product for",
        ),
        (
            "Hutchinson's diagonal forgets to multiply by the probe",
            "samples = (probe * product for",
            "samples = (product for",
        ),
    ),
    *mutants_in(
        "steepest/second_order/adahessian.py",
        ADAHESSIAN,
        (
            "AdaHessian without bias correction of the first moment",
            '-lr * correction / (1 - beta1 ** state["step"])',
            "-lr * correction",
        ),
        (
            "AdaHessian without bias correction of the second moment",
            '(1 - beta2 ** state["estimates"]) ** power for',
            "1.0 for",
        ),
        (
            "AdaHessian corrects the second moment by steps instead of estimates",
            'beta2 ** state["estimates"]',
            'beta2 ** state["step"]',
        ),
        (
            "AdaHessian averages the diagonal without squaring it",
            "torch._foreach_addcmul_(squares, averaged, averaged, 1 - beta2)",
            "torch._foreach_add_(squares, torch._foreach_mul(averaged, 1 - beta2))",
        ),
        (
            "AdaHessian is Adam: the gradient squared in the second moment",
            "torch._foreach_addcmul_(squares, averaged, averaged, 1 - beta2)",
            "torch._foreach_addcmul_(squares, ascents, ascents, 1 - beta2)",
        ),
        ("AdaHessian without the square root", 'group["hessian_power"] / 2', 'group["hessian_power"]'),
        (
            "AdaHessian's weight decay is coupled, in the gradient",
            "ascents = [gradients[param] for param in params]",
            'ascents = [gradients[param] + group["weight_decay"] * param for param in params]',
        ),
        ("AdaHessian's .grad keeps its graph", "param.grad = found[param].detach() if", "param.grad = found[param] if"),
        ("AdaHessian builds the graph in every step", "create_graph=estimating", "create_graph=True"),
        (
            "AdaHessian's state dict forgets where it is between estimates",
            'self.steps = state_dict["steps"]',
            "self.steps = 0",
        ),
        (
            "AdaHessian steps a new parameter without any estimate",
            "param in gradients and (diagonals is not None or param in self.state)",
            "param in gradients",
        ),
        (
            "AdaHessian descends where it should maximize",
            'torch._foreach_neg(ascents) if group["maximize"] else ascents',
            "ascents",
        ),
    ),
    *mutants_in(
        "steepest/second_order/parameter_diagonals.py",
        ADAHESSIAN,
        (
            "AdaHessian averages absolute values over blocks",
            "blocks.mean(dim=2, keepdim=True)",
            "blocks.abs().mean(dim=2, keepdim=True)",
        ),
        (
            "AdaHessian averages absolute values over kernels",
            "return diagonal.mean(dim=tuple(range(2, diagonal.ndim))",
            "return diagonal.abs().mean(dim=tuple(range(2, diagonal.ndim))",
        ),
        ("AdaHessian averages kernels over channels too", "range(2, diagonal.ndim)", "range(1, diagonal.ndim)"),
        (
            "AdaHessian takes the product for the diagonal, without the probe",
            "samples = torch._foreach_mul(products, probes)",
            "samples = products",
        ),
        (
            "AdaHessian's samples are summed, not averaged",
            "sums if n_samples == 1 else torch._foreach_div(sums, n_samples)",
            "sums",
        ),
        (
            "AdaHessian's product for each parameter alone, without the others' part",
            "        if all(product is None for product in products):",
            "        products = list(products)\n"
            "        for i in curved:\n"
            "            (products[i],) = torch.autograd.grad(\n"
            "                gradients[i], params[i], probes[i], retain_graph=True, allow_unused=True\n"
            "            )\n"
            "        if all(product is None for product in products):",
        ),
        (
            "AdaHessian takes a lost graph for zero curvature",
            "if all(product is None for product in products):",
            "products = list(products) + [None] * (len(params) - len(products))\n        if False:",
        ),
    ),
    *mutants_in(
        "steepest/second_order/seeded_optimizer.py",
        ADAHESSIAN,
        (
            "AdaHessian's state dict forgets the generator",
            "            self.generator.set_state(generator_state.cpu())\n",
            "            pass\n",
        ),
    ),
    *mutants_in(
        "steepest/second_order/pair_history.py",
        LBFGS_DIRECTION,
        (
            "L-BFGS: γ inverted (pair history)",
            "torch.div(curvature, torch.dot(change, change), out=self.scale)",
            "torch.div(torch.dot(change, change), curvature, out=self.scale)",
        ),
        (
            "L-BFGS keeps only y: s taken for y",
            "torch.mul(direction, step_size, out=self.steps[row])",
            "torch.sub(gradient, previous_gradient, out=self.steps[row])",
        ),
        (
            "L-BFGS: s is the direction, without the step size",
            "torch.mul(direction, step_size, out=self.steps[row])",
            "self.steps[row].copy_(direction)",
        ),
        (
            "L-BFGS: the oldest pair is left in the products when its row is reused",
            "        self._inverse_products[row].zero_()\n",
            "",
        ),
        (
            "L-BFGS: the pairs are lost where their memory grows",
            "torch.cat([pairs, pairs.new_zeros(rows - len(pairs), pairs.shape[1])])",
            "pairs.new_zeros(rows, pairs.shape[1])",
        ),
        ("L-BFGS: memory for the largest history from the start", "min(capacity, FIRST_ROWS)", "capacity"),
    ),
    *mutants_in(
        "steepest/second_order/lbfgs_direction.py",
        LBFGS_DIRECTION,
        (
            "L-BFGS: γ inverted (two loops)",
            "scale = curvatures[-1] / torch.dot(gradient_changes[-1], gradient_changes[-1])",
            "scale = torch.dot(gradient_changes[-1], gradient_changes[-1]) / curvatures[-1]",
        ),
        (
            "L-BFGS: γ from the oldest pair",
            "scale = curvatures[-1] / torch.dot(gradient_changes[-1], gradient_changes[-1])",
            "scale = curvatures[0] / torch.dot(gradient_changes[0], gradient_changes[0])",
        ),
        ("L-BFGS: both loops from the oldest pair", "for i in reversed(range(count)):", "for i in range(count):"),
        (
            "L-BFGS: both loops from the newest pair",
            "    direction *= scale\n    for i in range(count):",
            "    direction *= scale\n    for i in reversed(range(count)):",
        ),
        (
            "L-BFGS: pairs without positive curvature accepted by the direction",
            "if not bool((curvatures > 0).all()):",
            "if False:",
        ),
    ),
    *mutants_in(
        "steepest/second_order/lbfgs_iteration.py",
        LBFGS_TESTS,
        (
            "L-BFGS: pairs without positive curvature accepted by the optimizer",
            "if curvature > finfo.eps * abs(slope) and result.step_size * curvature > finfo.tiny:",
            "if True:",
        ),
        (
            "L-BFGS: slope's sign in the curvature of a pair",
            "curvature = result.slope - slope",
            "curvature = result.slope + slope",
        ),
        (
            "L-BFGS: the first step is not scaled",
            "return -gradient * (1 / gradient.abs().sum()).clamp(max=1)",
            "return -gradient",
        ),
    ),
    *mutants_in(
        "steepest/second_order/flat_objective.py",
        LBFGS_TESTS,
        (
            "L-BFGS keeps a gradient that the closure overwrites",
            "return gradients[0].clone() if gradients[0].ndim == 1 else gradients[0].flatten().clone()",
            "return gradients[0].flatten()",
        ),
        (
            "L-BFGS: a failed search leaves the parameters at the last trial",
            "        if step_size != self._trial_step:\n            self._move(direction, step_size)\n",
            "",
        ),
        (
            "a closure that raises leaves L-BFGS at a trial",
            "                self.reset(self.point)\n                raise",
            "                raise",
        ),
    ),
    *mutants_in(
        "steepest/second_order/line_search.py",
        LINE_SEARCH,
        (
            "line search without the curvature condition",
            "if decreased and abs(trial.slope) <= -c2 * slope:",
            "if decreased:",
        ),
        (
            "line search with the weak curvature condition",
            "abs(trial.slope) <= -c2 * slope",
            "trial.slope >= c2 * slope",
        ),
        (
            "line search without sufficient decrease",
            "decreased = finite and trial.value <= value + c1 * step_size * slope",
            "decreased = finite and trial.value <= value",
        ),
        (
            "line search takes NaN for a decrease",
            "finite = math.isfinite(trial.value) and math.isfinite(trial.slope)",
            "finite = True",
        ),
        (
            "line search keeps the wrong end of the bracket",
            "trial.slope * (high.step_size - low.step_size) >= 0",
            "trial.slope * (high.step_size - low.step_size) <= 0",
        ),
    ),
    *mutants_in(
        "steepest/second_order/bfgs.py",
        BFGS,
        (
            "BFGS without the term ρ s sᵀ",
            "weight = 1 + torch.dot(gradient_change, product) / curvature",
            "weight = torch.dot(gradient_change, product) / curvature",
        ),
        ("BFGS accepts pairs without positive curvature", "if not bool(curvature > 0):", "if False:"),
        ("BFGS adds the cross terms", "inverse_hessian - (cross + cross.mT)", "inverse_hessian + (cross + cross.mT)"),
    ),
    *mutants_in(
        "steepest/second_order/newton.py",
        NEWTON,
        (
            "Newton's step with a plus",
            "step = torch.linalg.solve(damped, -gradient)",
            "step = torch.linalg.solve(damped, gradient)",
        ),
        (
            "Newton multiplies by the Hessian instead of solving",
            "step = torch.linalg.solve(damped, -gradient)",
            "step = damped @ -gradient",
        ),
        ("Newton's damping subtracted", "damped.diagonal().add_(damping)", "damped.diagonal().sub_(damping)"),
        ("Newton's damping added to all entries", "damped.diagonal().add_(damping)", "damped.add_(damping)"),
    ),
    *mutants_in(
        "steepest/second_order/hessian_vector.py",
        HESSIAN_VECTOR,
        (
            "Hessian-vector product is the gradient of ½ gᵀg",
            "grad_outputs=vector.detach()",
            "grad_outputs=gradient.detach()",
        ),
    ),
    *mutants_in(
        "steepest/second_order/seeded_optimizer.py",
        KFAC,
        (
            "K-FAC's state dict forgets the generator",
            "            self.generator.set_state(generator_state.cpu())\n",
            "            pass\n",
        ),
    ),
    *mutants_in(
        "steepest/second_order/flat_objective.py",
        NONLINEAR_CG,
        (
            "a closure that raises leaves nonlinear CG at a trial",
            "                self.reset(self.point)\n                raise",
            "                raise",
        ),
        (
            "a step beyond the range of float32 is an error",
            "alpha = step_size if step_size <= torch.finfo(self.point.dtype).max else math.inf",
            "alpha = step_size",
        ),
    ),
    *mutants_in(
        "steepest/second_order/functional_model.py",
        FISHER,
        ("the Fisher matrix in autocast's precision", ", torch.autocast(inputs.device.type, enabled=False):", ":"),
    ),
    *mutants_in(
        "steepest/second_order/functional_model.py",
        GAUSS_NEWTON,
        (
            "the Gauss-Newton matrix in autocast's precision",
            ", torch.autocast(inputs.device.type, enabled=False):",
            ":",
        ),
    ),
]
