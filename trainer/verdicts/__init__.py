"""The verdict on a job: which rows it is made of, and the rule that makes it of their scores."""
