"""The lab: claims that are taught about batch normalization, re-run on real data, each with a verdict."""
