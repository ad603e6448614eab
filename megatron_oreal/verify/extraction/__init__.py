"""The answer in a response. boxes: what stands in boxes; answer: which of them is the final answer, and the gold answer out of its own."""
