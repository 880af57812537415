"""Operations on whole models, and what they rest on: snapshots, how batches enter, what processes exchange."""
