"""The gradients' goals as rows of the table: measured as `backward` does it, judged here."""

from __future__ import annotations

from bench.limits import Settings
from bench.rows import Row, geometric_mean
from tests.cases import PERF_CASES

QUICK = ("dilated", "vocoder up 3", "resnet layer 1", "vocos depthwise")


def rows(settings: Settings) -> list[Row]:
    """Race all three gradients of every layer of the list against PyTorch's, on one core."""
    if "torch" not in settings.engines:
        print("\ngradients: not measured, PyTorch is their peer")
        return []
    from bench import backward

    cases = [case for case in PERF_CASES if not settings.quick or case.name in QUICK]
    measured = [backward.measure(case) for case in cases]
    table = []
    for kind, goal in backward.GOALS.items():
        ratios = {row.case.name: row.torch / row.ours for row in measured if row.kind == kind}
        table.append(_row(f"gradients, {kind}", "PyTorch", ratios, goal, backward.NO_CASE_BELOW))
    users = {row.case.name: row.user / row.ours for row in measured if row.user}
    return [
        *filter(None, table),
        *filter(None, [_row("gradients, 1-D", "PyTorch NLC", users, backward.USER_GOAL, 0.0)]),
    ]


def _row(title: str, against: str, ratios: dict[str, float], mean_goal: float, least_goal: float) -> Row | None:
    if not ratios:
        return None
    mean, worst = geometric_mean(ratios.values()), min(ratios, key=ratios.__getitem__)
    goal = f"mean >= {mean_goal}" + (f", each >= {least_goal}" if least_goal else "")
    text = f"mean {mean:.2f}, least {ratios[worst]:.2f} ({worst}), of {len(ratios)}"
    return Row(title, against, goal, text, mean >= mean_goal and ratios[worst] >= least_goal, ratios, mean_goal)
