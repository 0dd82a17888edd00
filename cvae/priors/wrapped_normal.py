"""The prior of hyperbolic space."""

from cvae.priors.standard_normal import StandardNormal


class WrappedNormalPrior(StandardNormal):
    """The wrapped normal of scale 1 around the origin of the Poincaré ball (Mathieu et al. 2019, section 3.2).

    As z is a point's logarithm at the origin (see `cvae.posteriors.WrappedNormal`), it is N(0, I) there.
    """

    ball = True
