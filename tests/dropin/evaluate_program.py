"""lm-eval as a program uses it: BACKEND, its arguments as JSON, the folder of tasks; results."""

import json
import sys

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

backend, arguments, folder = sys.argv[1:]
found = simple_evaluate(
    model=backend,
    model_args=json.loads(arguments),
    tasks=["perfxlm_questions", "perfxlm_answers"],
    task_manager=TaskManager(include_path=folder, include_defaults=False),
    batch_size=8,
    device="cpu",
)
print("\n" + json.dumps(found["results"]))
