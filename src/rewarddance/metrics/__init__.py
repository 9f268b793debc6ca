"""How good judgements are, as pure functions of numbers: agreement, position bias, calibration, intervals, rankings.

Conventions of the whole package: log-odds say how much better the *second* medium is; a target is the preference for
the second medium in [0, 1], one half being a tie; NaN log-odds stand for a judgement that failed.
"""
