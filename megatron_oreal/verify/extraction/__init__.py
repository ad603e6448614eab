"""The answer in a response. boxes: what stands in boxes; joint: which of them are one answer; anywhere: answers without a box; answer: the
final answer, and the gold answer out of its own box."""
