"""A program as users have it: LangChain's class for vLLM, and nothing of perfxlm's."""

import json
import sys

from langchain_community.llms import VLLM
from langchain_core.prompts import PromptTemplate

llm = VLLM(
    model=sys.argv[1],
    max_new_tokens=12,
    temperature=0,
    trust_remote_code=True,
    dtype="float32",
    vllm_kwargs={"max_model_len": 256},
)
chain = PromptTemplate.from_template("The capital of {country} is") | llm
countries = ["France", "Japan"]
answers = [chain.invoke({"country": c}) for c in countries]
both = llm.generate([f"The capital of {c} is" for c in countries], stop=["."])
print(json.dumps({"answers": answers, "both": [g[0].text for g in both.generations]}))
