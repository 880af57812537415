"""The core of ``recalibrate`` and ``adapt``, for any framework: sites, passes, standard errors, a prior, reports."""
