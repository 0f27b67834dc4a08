"""One backward call: all that shapes and memory layouts decide is planned once, and found again by one look-up."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from .arrays import flat_data
from .cpu import backend
from .cpu.grad_bias import grad_bias, plan_grad_bias
from .cpu.grad_plan import GradPlan
from .cpu.grad_weight import grad_weight, plan_grad_weight
from .cpu.grad_windows import WindowPlan, add_windows, plan_adding
from .cpu.ready import ReadyCall, ready_function
from .geometry import Geometry
from .padding_adjoint import fold_rim
from .runtime.threads import get_num_threads

__all__ = ["Gradients", "find_gradients"]

T = TypeVar("T")

_KEPT = 256
_found: dict[Any, Gradients] = {}


class Gradients:
    """The gradients of one geometry, for arrays of one dtype that lie in one way each."""

    def __init__(
        self, geometry: Geometry, grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray, needs: tuple[str, ...]
    ) -> None:
        self.geometry, self.needs, self.threads = geometry, frozenset(needs), get_num_threads()
        self.adding = plan_adding(geometry, grad_output, weight) if "x" in needs else None
        self.adjoint: ReadyCall | None = None  # made at the first call
        self.weight = self.bias = None
        if "weight" in needs and x.size and grad_output.size and weight.size:
            self.weight = self._plan_weight(grad_output, x, np.empty_like(weight), finite=True)
        if "bias" in needs and grad_output.size:
            self.bias = plan_grad_bias(geometry, grad_output)

    def fits(self) -> bool:
        """Say whether it was planned for as many threads as there are now; the bits would be the same."""
        return self.threads == get_num_threads()

    def __call__(
        self, grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Compute the gradients of x, weight and bias."""
        needs = self.needs
        grad_x = grad_w = grad_b = None
        flat = flat_data(grad_output)
        if self.adding is not None:
            grad_x = add_windows(self.adding, flat_data(weight), flat)
        elif "x" in needs:
            grad_x = None if self.adjoint is None else self.adjoint(grad_output, weight, None)
            grad_x = self._grad_x(grad_output, weight) if grad_x is None else grad_x
        if self.weight is not None:
            grad_w = np.empty_like(weight)
            plan, (wide, narrow) = self.weight, self._by_role(flat, flat_data(x))
            if isinstance(plan, WindowPlan) and plan.gaps:
                _, narrow_array = self._by_role(grad_output, x)
                if not np.isfinite(narrow_array).all():
                    plan = self._plan_weight(grad_output, x, grad_w, finite=False)
            grad_weight(plan, flat_data(grad_w), wide, narrow)
        elif "weight" in needs:
            grad_w = np.zeros_like(weight)
        if self.bias is not None:
            grad_b = grad_bias(self.bias, flat)
        elif "bias" in needs:
            grad_b = np.zeros(self.geometry.c_out, grad_output.dtype)
        return grad_x, grad_w, grad_b

    def _grad_x(self, grad_output: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Run the adjoint on grad_output, and keep it for further calls where it is all."""
        adjoint = self.geometry.adjoint()
        grad = np.empty(adjoint.output_shape, weight.dtype)
        weights = backend.prepare_weights(adjoint, weight)
        no_bias = backend.prepare_bias(None, adjoint.c_out, weight.dtype)
        address = backend.activation_address(None, weight.dtype)

        def run(part: Geometry, source: np.ndarray, target: np.ndarray) -> None:
            backend.run(part, source, weights, no_bias, target, address, "auto")

        run(adjoint, grad_output, grad)
        if self.geometry.spec.padding_mode != "zeros":
            if grad_output.size and grad.size:
                fold_rim(self.geometry, grad_output, grad, run)
        elif weights.finite:
            plan = backend.find_plan(adjoint, grad_output, weights, grad, "auto", False)
            self.adjoint = ready_function(adjoint, plan, grad_output, weight, None, address)
        return grad

    def _by_role(self, of_output: T, of_x: T) -> tuple[T, T]:
        """Give what is wide, what is narrow: see `cpu.grad_weight`."""
        return (of_output, of_x) if self.geometry.spec.transposed else (of_x, of_output)

    def _plan_weight(
        self, grad_output: np.ndarray, x: np.ndarray, grad: np.ndarray, *, finite: bool
    ) -> WindowPlan | GradPlan:
        geometry = self.geometry.adjoint() if self.geometry.spec.transposed else self.geometry
        return plan_grad_weight(geometry, *self._by_role(grad_output, x), grad, self.threads, finite=finite)


def find_gradients(
    geometry: Geometry, grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray, needs: tuple[str, ...]
) -> Gradients:
    """Give what is planned for such a call."""
    key = geometry, grad_output.strides, x.strides, weight.strides, weight.dtype.num, needs, get_num_threads()
    found = _found.get(key)
    if found is None:
        if len(_found) >= _KEPT:
            _found.clear()
        found = _found[key] = Gradients(geometry, grad_output, x, weight, needs)
    return found
