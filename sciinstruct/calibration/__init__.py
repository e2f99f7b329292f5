"""Is a posterior to be trusted? Ranks, coverage, scores, posterior-predictive checks, studies and reports."""
