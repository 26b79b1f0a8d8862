"""Whole plans: installed recipes and random graphs, planned for a device, against float64.

A case is drawn without the plugin (`model_cases`, `graph_cases`) and run with it
(`run_plan_case`), here or in another process.
"""

from perfxlm_core.conformance.plans.case import GraphCase, ModelCase, PlanCase
from perfxlm_core.conformance.plans.configs import architectures, untried
from perfxlm_core.conformance.plans.strategies import composites, graph_cases, model_cases
from perfxlm_core.conformance.plans.trial import run_plan_case

__all__ = [
    "GraphCase",
    "ModelCase",
    "PlanCase",
    "architectures",
    "composites",
    "graph_cases",
    "model_cases",
    "run_plan_case",
    "untried",
]
