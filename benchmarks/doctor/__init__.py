"""The evidence of the doctor: faults in small trained models, their healthy twins, and what the doctor says of both.

Protocol:
    Development. The models of ``models.KINDS`` and ``judged_before.KINDS`` on digits, seeds 31 and 32. Limits and rules
    of the checks, operators, and what counts as harm may be chosen while looking at these, and ``limits`` measures the
    limits on them.

    Freeze. A commit that holds all of it: the operators, what counts as harm, the checks with their limits. The command
    refuses to judge with uncommitted changes in ``benchmarks/doctor`` or ``src/normwise``, and writes the commit into
    the results.

    Judging. One run on the frozen commit: the models of ``judged.KINDS``, architectures that development did not use,
    with seeds that it did not use, and on a second data set, images of MNIST. If a rule is changed after it, the next
    run takes fresh seeds, and the page says so.
"""
