"""What statistics from data come to in any framework: batches gone through, standard errors, a prior, reports."""
